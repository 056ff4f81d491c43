"""Names of files that platforms add to folders. They do not count as content and are never touched."""

from __future__ import annotations

from fnmatch import fnmatchcase

MARKERS = (
    *("*.sagemaker-uploaded", "*.sagemaker-uploading", ".sagemaker*"),  # SageMaker, next to files copied to S3
    *("..*",),  # Kubernetes: `..data` and the dated folder it links to, for a ConfigMap or Secret
    *("lost+found", ".snapshot", ".nfs*", ".fuse_hidden*", ".s3fs*", "@eaDir", ".Trash-*"),  # file systems and stores
    *(
        ".DS_Store",
        "._*",
        ".localized",
        ".Spotlight-V100",
        ".Trashes",
        ".fseventsd",
        ".TemporaryItems",
        "__MACOSX",
    ),  # macOS
    *("Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"),  # Windows
    *(".keep", ".gitkeep", ".gitignore", ".gitattributes", ".ipynb_checkpoints", ".directory", ".wh.*"),
    ".*.tmp",  # temporary files of a process of this program that was killed
)
"""Name patterns."""


def is_marker(name: str) -> bool:
    """Whether a platform adds files or folders of this name."""
    return any(fnmatchcase(name, pattern) for pattern in MARKERS)
