"""``python -m goroutine trace view FILE``: a page of a trace, to look at in a browser.

`command` is the command; `read` makes columns of numbers of a trace; `page` puts them into a page
with what draws them: page.html, page.css, and the scripts.
"""
