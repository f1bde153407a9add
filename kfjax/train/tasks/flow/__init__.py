"""Training of the generator: `config`, material (`features`, `scenes`), the step (`step`), both together (`task`)."""
