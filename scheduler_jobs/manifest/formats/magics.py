"""The first bytes of the formats that are no text.

In a module of their own: to read a CSV file, nobody has to import the libraries of the others.
"""

PARQUET = b"PAR1"
ARROW_FILE = b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"
WORKBOOK = b"PK\x03\x04"
