"""Three applications. Each is a task for `Client.do` and `AsyncClient.do`, and a command of the same name.

products.py  text that sells a product · products_table.py  a shop's whole CSV
textbook.py  exercises from a page · book.py  from every page of a PDF, as Markdown or JSON
tickets.py   what a customer's screenshot and message ask for
prompts.py   the words of prompts/*.yaml · cli.py  what the commands print
"""

from clients.apps.products import ProductCopy, product
from clients.apps.textbook import Exercise, Exercises, exercises
from clients.apps.tickets import Ticket, support

__all__ = ["Exercise", "Exercises", "ProductCopy", "Ticket", "exercises", "product", "support"]
