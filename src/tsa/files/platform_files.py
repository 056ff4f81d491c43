"""Files that platforms put beside those of a program, by name: they are no part of what a folder holds, and are left alone."""

from __future__ import annotations

from fnmatch import fnmatchcase

MARKERS = (
    *("*.sagemaker-uploaded", "*.sagemaker-uploading", ".sagemaker*"),  # SageMaker, beside what it copied to S3
    *("..*",),  # Kubernetes: `..data` and the folder with a date that it leads to, of a ConfigMap or Secret
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
    ".*.tmp",  # what a process of this program that was killed had not finished
)
"""Patterns of names."""


def is_marker(name: str) -> bool:
    """Whether a platform puts a file or folder of this name beside others."""
    return any(fnmatchcase(name, pattern) for pattern in MARKERS)
