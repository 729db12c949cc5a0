"""How bytes get to an agent program and back: pipes and terminals, behind one interface."""
