"""Every figure of linnat: one script for each, named statement_what_is_seen.

A script has STATEMENTS, `measure(quick)` (the numbers), `check(data)` (the claims, on those numbers) and
`draw(data)`. `main(quick, out)` does one after the other, so a picture exists only where its claims hold,
and the numbers lie beside it.
"""
