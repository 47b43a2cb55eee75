"""From a table to a proposed `problem.py`: `make contract SOURCE=… TARGET=…`.

`profile` finds out what the columns hold, `columns` declares each of them, `roles` chooses key and target,
`declare` puts the contract together and answers the findings of validation, `problem_file` writes it down.
"""
