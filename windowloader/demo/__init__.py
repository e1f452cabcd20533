"""The demo: from a file to a trained model, with what it cost. `windowloader demo` runs it.

In: a data set, or nothing. Out: errors beside two baselines, windows a second, private memory. The only part of the
package that has a model; torch and matplotlib are imported when they are used.

    generated   the data set that is made where none is given
    task        opened, split, scaled
    baselines   persistence and historical average
    model, training
    scoring     errors by step ahead
    memory      private memory, watched
    running     all of it, in order -> Result
    report, picture
"""
