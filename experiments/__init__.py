"""Studies and paper tables: what to run and how to read what runs left behind."""
