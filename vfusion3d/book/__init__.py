"""The second face of the package: notebooks run headlessly, what they would cost, and the page of their results."""
