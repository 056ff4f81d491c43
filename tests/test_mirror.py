"""Each source module `tsa/x/y.py` has its tests in `tests/x/test_y.py`, or is listed here with where they are and why."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "tsa"

ELSEWHERE = {
    "backtest/test_run.py": (
        "folds are trained, measured and reported in one piece",
        "backtest/fold backtest/measure backtest/models backtest/report backtest/sentences backtest/settings cli/backtest",
    ),
    "bundle/test_bundle.py": (
        "a bundle is written and read in one piece",
        "bundle/archive bundle/decisions bundle/model_card model/tree_model training/parts/trees",
    ),
    "bundle/test_sources.py": (
        "folders, archives and manifests are changed in the same ways, and each change is refused",
        "bundle/manifest bundle/signing bundle/tar_stream files/mounts files/platform_files",
    ),
    "integrations/sagemaker/test_client.py": (
        "the commands send the requests",
        "cli/platforms/sagemaker integrations/sagemaker/requests",
    ),
    "integrations/sagemaker/test_training.py": (
        "a job is started with its files",
        "integrations/sagemaker/training_settings",
    ),
    "integrations/test_mlflow.py": ("what is written is loaded again", "registry/mlflow_model"),
    "monitoring/test_expected.py": ("sentences and rows are made from its results", "monitoring/expected_view"),
    "calibration/test_probability_maps.py": (
        "the maps are fitted by one function",
        "calibration/bspline calibration/probability_fit",
    ),
    "cli/test_cli.py": (
        "commands run through `main`, as a user runs them",
        "cli/console cli/data cli/evaluate cli/explain cli/legacy cli/market cli/markets cli/monitor cli/score "
        "cli/terminal/metric_tables cli/tune",
    ),
    "cli/test_groups.py": (
        "what all commands share is tested on every command",
        "cli/app cli/options cli/process/title",
    ),
    "cli/test_train.py": (
        "sessions and tables are those of the commands",
        "cli/terminal/epoch_table cli/training/seeds cli/training/session",
    ),
    "scale/test_processes.py": ("the processes are those of the command", "cli/training/by_ray"),
    "cli/test_bundle.py": ("the differences are those that the command prints", "evaluation/bundle_diff"),
    "config/test_market.py": (
        "tables, rules and overrides are parts of one market file, and errors name its lines",
        "config/base config/derived config/input config/legacy config/market_tables config/optional_tables config/overrides "
        "config/promotion config/reason_texts config/settings config/tables config/toml config/validation config/wire "
        "config/wire_validation",
    ),
    "data/aggregates/test_compute.py": ("columns are compared with plain loops", "data/aggregates/columns"),
    "data/test_workers.py": (
        "stores are made in parts and in one piece",
        "data/bucketed data/key_codes data/log/pieces data/store/history_parts",
    ),
    "data/encoding/test_fit_scalers.py": (
        "parts of rows are added up exactly",
        "data/encoding/exact_sums data/encoding/training_rows",
    ),
    "data/check/test_log_check.py": ("the check reports it", "data/check/leaking_features"),
    "data/proposal/test_propose.py": (
        "a proposal is made in one piece",
        "data/proposal/known_columns data/proposal/guesses data/proposal/market_text data/proposal/profile",
    ),
    "data/test_formats.py": ("one log in every format", "data/clean_columns data/log/json_lines data/utf8_copy"),
    "data/test_outcomes.py": ("the same values in logs and single payments", "data/log/row_sets data/values"),
    "data/test_input_options.py": (
        "the same spellings in logs and single payments",
        "data/log/columns data/online/rows",
    ),
    "data/test_roles.py": ("roles compare the tokens", "data/raw_values"),
    "data/log/test_reader.py": (
        "a log is read in one piece: rules, duplicates, order and quarantine depend on each other",
        "data/time_outliers data/log/derived_rules data/log/duplicates data/log/id_and_joined_columns data/log/quarantine "
        "data/log/rule data/log/rules data/log/sorting data/log/validation",
    ),
    "data/log/test_text_tables.py": (
        "files of text are read from their first lines",
        "data/log/file_heads data/log/sources",
    ),
    "data/log/test_paths.py": ("errors are those of paths that cannot be read", "data/log/read_errors"),
    "retraining/test_retrain.py": (
        "a round carries over what the champion has, writes the page and publishes",
        "retraining/champion_settings retraining/page retraining/publishing",
    ),
    "evaluation/promotion/test_gate.py": ("a pair is scored to be judged", "evaluation/promotion/pair"),
    "data/online/test_payments.py": ("the reader of payments makes them", "data/online/encoded"),
    "data/store/test_store.py": (
        "a store is built to be opened",
        "data/store/build data/store/data_report data/store/encoded_rows data/store/indexed_histories "
        "data/store/manifest data/store/prepare data/store/splits data/store/summary",
    ),
    "data/store/test_append.py": (
        "files of outcomes and rows are appended",
        "data/store/appended_rows data/store/outcomes",
    ),
    "data/store/test_object_store.py": (
        "stores are fetched from a real server into a cache",
        "files/cache files/object_folder",
    ),
    "data/wire/test_files.py": (
        "rows are read from files and requests with equal results",
        "data/wire/event_pool data/wire/event_segments data/wire/histories data/wire/layout data/wire/quarantine "
        "data/wire/reader data/wire/row_errors data/wire/row_pieces data/wire/spelling data/wire/values",
    ),
    "data/wire/test_rules.py": ("each rule is broken in a request", "data/wire/request data/wire/request_arrays"),
    "data/wire/test_tokens.py": (
        "tables of tokens are compared with dictionaries",
        "data/wire/hash_table data/wire/scales data/wire/vocabulary_lookup",
    ),
    "estimator/test_classifier.py": (
        "a classifier is fitted to a frame in one piece",
        "estimator/fit_model estimator/fitted estimator/fitting estimator/frames estimator/report estimator/roles",
    ),
    "evaluation/metrics/test_evaluate_scores.py": (
        "the metrics are computed together",
        "evaluation/metrics/curves evaluation/metrics/segments",
    ),
    "evaluation/metrics/test_bootstrap.py": ("samples weight a ranking", "evaluation/metrics/ranking"),
    "evaluation/metrics/test_paired.py": ("two models score the same payments", "evaluation/metrics/scored_payments"),
    "evaluation/report/test_report.py": (
        "what a page shows is read from the page",
        "evaluation/report/calibration evaluation/report/data_summary evaluation/report/formatting evaluation/report/sentences "
        "evaluation/report/json_values "
        "evaluation/report/sections evaluation/report/top_payments",
    ),
    "evaluation/test_thresholds.py": (
        "the page is made of the result, and thresholds are tried against a plain simulation",
        "evaluation/blocked_keys evaluation/daily_queue evaluation/report/thresholds evaluation/review_and_decline",
    ),
    "evaluation/test_evaluate.py": ("a run is opened to be evaluated", "evaluation/trained_run"),
    "explain/test_explainer.py": (
        "an explanation adds up only with all its parts",
        "explain/attributions_by_feature explain/log explain/part_attributions explain/reason_groups explain/reasons",
    ),
    "explain/test_integrated_gradients.py": (
        "the gradients are compared with Captum's",
        "explain/baseline explain/explanation",
    ),
    "explain/test_path.py": ("the path is taken through the embeddings", "explain/embedding_parts"),
    "test_files.py": ("files are complete or not there", "errors files/locking files/reading files/writing"),
    "test_outputs.py": ("every command is tried with outputs that are inputs", "files/outputs"),
    "inference/test_onnx_export.py": (
        "the engines give equal scores",
        "inference/engine inference/export_bundle inference/onnx_runtime",
    ),
    "inference/test_scorer.py": ("scores are written to be compared", "inference/score_files"),
    "inference/test_recalibrate.py": ("a labelled log is read to recalibrate", "inference/labelled_log"),
    "inference/test_single_payments.py": ("single payments and logs have equal scores", "inference/row_scores"),
    "integrations/sagemaker/test_multi_model_server.py": (
        "what is packed is run by SageMaker's server",
        "integrations/sagemaker/packing",
    ),
    "model/test_network.py": (
        "layers are compared with plain formulas inside the network",
        "model/batch model/collate model/feature_attention model/layers model/order_attention",
    ),
    "monitoring/test_monitor.py": (
        "alerts, page and reference are made of one result",
        "monitoring/alerts monitoring/page monitoring/ranges monitoring/reference",
    ),
    "monitoring/test_drift.py": (
        "counts in windows are compared with plain counts",
        "monitoring/bin_counts monitoring/feature_bins monitoring/performance monitoring/scores "
        "monitoring/stability monitoring/windows",
    ),
    "monitoring/watching/test_watch.py": (
        "history and page are written by a watch",
        "monitoring/watching/history monitoring/watching/page",
    ),
    "registry/test_registry.py": (
        "a registry in a folder is used as one thing",
        "registry/opening registry/place registry/records",
    ),
    "registry/test_following.py": ("the command starts a server that follows an alias", "cli/serve"),
    "serving/test_request_limits.py": ("a body is checked before it is read", "serving/formats serving/problems"),
    "serving/test_bounds.py": (
        "limits are tried over a real connection",
        "serving/http/protocol serving/metrics serving/parquet_body serving/parquet_pages serving/parquet_process",
    ),
    "serving/test_processes.py": (
        "workers are real processes that are killed and started",
        "serving/errors serving/file_descriptors serving/reload_files serving/startup_signals serving/supervisor "
        "serving/tls serving/worker signals",
    ),
    "serving/history/test_stores.py": (
        "both engines pass the same tests",
        "serving/history/base serving/history/factory serving/history/redis_store serving/history/redis_client "
        "serving/history/redis_connection serving/history/redis_scripts serving/history/sqlite_store "
        "serving/history/sqlite_file serving/history/sqlite_rows",
    ),
    "serving/history/test_store_set_back.py": (
        "a store that went back has another identity",
        "serving/history/identity",
    ),
    "serving/history/test_reencode.py": (
        "blocks and records are encoded again",
        "serving/history/blocks serving/history/records",
    ),
    "cli/test_history.py": (
        "a store is loaded and pruned by commands",
        "serving/history/backfill serving/history/maintenance",
    ),
    "serving/test_decision_log.py": (
        "what a server answers is what it logs, and what the commands show",
        "cli/decisions/commands serving/scoring/decision_recorder serving/scoring/recorded_values",
    ),
    "serving/scoring/test_challenger.py": ("a challenger answers a share of the keys", "serving/scoring/traffic_split"),
    "serving/decisions/test_background_writer.py": (
        "entries are appended, converted and read",
        "serving/decisions/entries serving/decisions/parquet_files serving/decisions/journal",
    ),
    "serving/decisions/test_replay.py": (
        "recorded payments are read, as a log, and scored",
        "serving/decisions/as_payment_log serving/decisions/read_decisions",
    ),
    "serving/http/routes/test_score.py": (
        "requests are sent over a real connection",
        "serving/http/app serving/http/invocations serving/http/middleware serving/http/request_context",
    ),
    "serving/http/routes/test_queue.py": (
        "a queue is tried over a real connection",
        "serving/analyst_queue/cases serving/analyst_queue/case_database serving/analyst_queue/case_writer "
        "serving/analyst_queue/erase serving/analyst_queue/case_export serving/scoring/case_evidence",
    ),
    "serving/http/test_openapi.py": ("schemas are parts of one document", "serving/http/openapi_schemas"),
    "serving/test_auth.py": (
        "reloading is what an admin token allows, and a role is tried over a real connection",
        "serving/http/route_roles serving/http/routes/admin",
    ),
    "serving/scoring/test_scoring_service.py": (
        "a service is tried in memory, with each of its parts",
        "serving/results serving/scoring/isolation serving/scoring/pipeline serving/scoring/preview serving/scoring/transaction",
    ),
    "serving/scoring/test_bundle_watch.py": (
        "the state, its shadow and its explainer follow the bundle",
        "serving/scoring/app_state serving/scoring/explain_worker serving/scoring/opening serving/scoring/shadow "
        "serving/scoring/startup_warnings",
    ),
    "simulation/test_log.py": (
        "a simulated log is checked for what its parts promise",
        "simulation/campaigns simulation/config simulation/distributions simulation/fraud simulation/genuine "
        "simulation/payments simulation/population simulation/writer",
    ),
    "test_times.py": ("every way to give a time agrees", "data/time_range"),
    "scale/test_cluster.py": (
        "days are scored by the workers of a cluster",
        "scale/preparing scale/scoring scale/shared_store",
    ),
    "test_machine.py": ("the machine's limits are reached", "system_errors"),
    "training/refitting/test_cross_fitting.py": (
        "a recipe and the report are those of a refit",
        "evaluation/refitted training/refitting/recipe",
    ),
    "training/test_resume.py": (
        "a run that was killed continues with the same draws",
        "progress",
    ),
    "training/test_waits.py": ("processes are waited for", "training/data/worker_pipe training/ending/stop_signals"),
    "training/test_train_model.py": (
        "a run folder is written by a training",
        "training/epoch_stats training/run_folder training/training_run",
    ),
    "training/test_train_step.py": ("a step is made in each precision", "training/precision"),
    "training/test_early_stopping.py": ("epochs are validated to stop early", "training/validation"),
    "training/test_tracking.py": ("every tracker gets the same records", "training/trackers/mlflow"),
    "training/test_trackers_fail.py": ("trackers fail behind their queue", "training/trackers/queue"),
    "tuning/test_tune.py": ("a search is run", "tuning/search tuning/trial"),
}
"""Test module: (why, source modules whose tests are in it)."""


def modules() -> set[str]:
    paths = (path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if not path.name.startswith("__"))
    return {path.with_suffix("").as_posix() for path in paths}


def mirror(module: str) -> Path:
    folder, _, name = module.rpartition("/")
    return TESTS / folder / f"test_{name}.py"


def test_each_source_module_has_a_test_module() -> None:
    listed = {name for _, names in ELSEWHERE.values() for name in names.split()}
    assert sorted(name for name in modules() - listed if not mirror(name).exists()) == []


def test_the_list_is_true() -> None:
    listed = [name for _, names in ELSEWHERE.values() for name in names.split()]
    assert sorted(name for name in listed if listed.count(name) > 1) == []
    assert sorted(set(listed) - modules()) == []
    assert [name for name in listed if mirror(name).exists()] == []
    assert [name for name in ELSEWHERE if not (TESTS / name).exists()] == []
    assert all(why and names for why, names in ELSEWHERE.values())


def test_each_golden_file_has_its_origin_written_down() -> None:
    folder = TESTS / "golden"
    text = (folder / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in folder.iterdir()} - {"README.md"}
    for model in ("single", "single_no_time_no_bias", "single_no_engineered", "two_sequence"):
        assert f"`{model}`" in text
        names -= {f"{model}.config.json", f"{model}.weights.safetensors", f"{model}.tensors.safetensors"}
    assert sorted(name for name in names if f"`{name}`" not in text) == []
