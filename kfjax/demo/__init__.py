"""`kfjax demo`: a web page that makes sound for the clips and prompts of its visitors.

wish.py      what a visitor asks for, and its limits
take.py      a sound of a visitor, and its files
studio.py    queue, results and their deletion, independent of the page
gate.py      the routes that are open to the network
form.py      the left side of the page, in Gradio
player.py    where takes are heard and changed
page.py      the page of these: what happens after what, and its server
__main__.py  the command: model, server, end
"""
