"""The clauses of the contract, by their names."""

from ptm_lightning.testing import CLAUSES, Clause, targets_restore_the_text

NAMED: dict[str, Clause] = {clause.__name__: clause for clause in (*CLAUSES, targets_restore_the_text)}
