"""`imagemill backup` and `restore`: the database at one moment, and the files that it names.

A backup is a folder. `backup.json` is written last, so a folder without it is no backup.
`docs/backup.md` says what a restored installation knows, and what it renders again.
"""
