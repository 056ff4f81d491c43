"""An Airflow DAG for a round of retraining every Monday (docs/how-to/lifecycle.md). Copy it into the folder of DAGs.

Exit code 10 means that the new model is published but does not pass the gate: the task is then marked as skipped.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow import DAG
from airflow.operators.bash import BashOperator

with DAG(
    dag_id="tsa_retrain",
    schedule="0 3 * * 1",
    start_date=datetime(2025, 1, 6),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},  # a killed round continues
) as dag:
    BashOperator(
        task_id="retrain",
        cwd="/var/lib/tsa",
        bash_command=(
            "tsa retrain --quiet --promote --market market.toml --store store --registry registry incoming/*.parquet"
        ),
        skip_on_exit_code=10,
    )
