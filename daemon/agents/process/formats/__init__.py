"""The formats in which programs print what they do: one file for each program, read line by line as it arrives.

Standard library only and relative imports, as in the supervisor, which reads with this what its command prints.
"""
