"""How good a drafter is: rounds played over the target's own texts, their figures, a live server's answers."""
