"""`imagemill up`: the production parts on one machine, kept running by a supervisor.

`home` is the folder, `plan` what was asked for and the passwords, `services` the table of what
runs. `supervisor` is the process that starts them, starts again what dies, and stops them in order.
`control` is what the commands call.
"""
