"""`headway replay`: an access log run through a limiter in virtual time.

It answers "which limit should I set?" before anybody is limited: who would have been denied, when
and how often. A log goes through these rooms, each of which can be used on its own:

    blocks       a file (plain, gzip, standard input) as blocks of whole lines
    access_log   what the lines say: the expression for both formats, and timestamps
    requests     blocks to requests in the order of time, across files
    demand       what clients asked for: totals, peaks, schedules
    lane         one quota on trial, and what it denied
    suggest      the smallest quotas that leave a share of the clients alone
    report       the result as plain data (the JSON output); show and plot draw it
    command      the arguments, the loop, the exit code

Nothing here is imported by `import headway`.
"""
