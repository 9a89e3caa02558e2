"""Find the components that carry induction in a small transformer, and take them away.

microtome train induction train_induction && microtome decompose induction
python examples/induction_heads.py runs/NAME_OF_THE_DECOMPOSITION
"""

import sys

import microtome
from microtome.decomposition.induction_circuit import ablate_circuit, find_circuit


def main(run: str, threshold: float = 0.1) -> None:
    decomposition = microtome.load(run)
    circuit = find_circuit(decomposition, threshold)
    total = sum(left.shape[1] for left, _ in decomposition.factors.values())
    print(f"{circuit.size} of {total} components matter for induction:")
    for site, numbers in circuit.components.items():
        print(f"  {site:<24} {len(numbers)}")
    found = ablate_circuit(decomposition, circuit)
    mean = {
        name: sum(values) / len(values) for name, values in vars(found).items() if isinstance(values, tuple)
    }
    print("accuracy where what comes next has been seen:")
    print(f"  target                          {found.target:.3f}   (chance {found.chance:.3f})")
    print(f"  all components                  {found.all_components:.3f}")
    print(f"  weighed by causal importance    {found.causal_importance:.3f}")
    others = mean["others_removed"], mean["others_only"]
    print(f"  without them                    {found.removed:.3f}   (random others {others[0]:.3f})")
    print(f"  with nothing but them           {found.only:.3f}   (random others {others[1]:.3f})")


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
