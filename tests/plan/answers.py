"""What the compiling process would answer, and plans made of it."""

from ssljax.plan import making

MIB = 1 << 20


def step(**changes):
    """The answer for a step that fits."""
    return {
        "flops": {"matmul": 3e12, "convolution": 5e12, "passes": 10e12},
        "memory": {"parameters": 100 * MIB, "optimiser": 200 * MIB, "other": 0, "activations": 724 * MIB},
        "seconds": {"trace": 1.5, "compile": 12.0, "processor": 18.0},
        "collectives": {"all-reduce": {"count": 3, "payload": 800.0, "sent": 4e9}},
        "hbm_bytes": 8.19e9,
    } | changes


def too_large():
    """The answer for one that does not."""
    found = step(too_large={"used": 20 << 30, "limit": 16 << 30})
    del found["collectives"], found["hbm_bytes"]
    return found | {"seconds": {"trace": 1.5}}


class Asked:
    """Stands for `children.ask` and notes what it was asked; `fits` judges the overrides."""

    def __init__(self, fits=lambda overrides: True):
        self.fits, self.requests = fits, []

    def __call__(self, request):
        self.requests.append(request)
        if request["what"] == "views":
            return {"operations": {"fusion": 7, "while": 2}}
        return step() if self.fits(request["overrides"]) else too_large()


def plan(name="bert_large", topology="v5e-16", options=("--bfloat16",), **arguments):
    """A plan of these answers."""
    arguments.setdefault("ask", Asked())
    return making.make(name, topology, options, **arguments)
