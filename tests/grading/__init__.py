"""The attack suite: a class of honest, broken, dishonest and hostile submissions through the real nbgrader."""
