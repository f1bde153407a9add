"""`kfjax demo`: a web page that makes sound for the clips and prompts of its visitors.

studio.py    limits, queue, results and their deletion, independent of the page
gate.py      the routes that are open to the network
page.py      the page itself, in Gradio
__main__.py  the command: model, server, end
"""
