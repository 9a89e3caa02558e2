"""``microtome completion``: what the shell needs to complete commands, flags and run folders."""

from collections.abc import Sequence

from microtome.cli.aliases import ALIASES
from microtome.cli.recipes import recipes
from microtome.core.config import Config
from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError

USAGE = """usage: microtome completion bash|zsh

Prints the completion of a shell. Take it into use with one of

  eval "$(microtome completion bash)"     in ~/.bashrc
  eval "$(microtome completion zsh)"      in ~/.zshrc, after compinit"""

_BASH = """_microtome() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o filenames -F _microtome microtome
"""
_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


def main(arguments: Sequence[str]) -> int:
    """Print the script of one shell."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    shell = arguments[0]
    if shell not in ("bash", "zsh"):
        near = nearest(shell, ["bash", "zsh"])
        raise MicrotomeError(
            f"completion {shell}: unknown shell; {f'did you mean {near}?' if near else 'bash or zsh'}"
        )
    print((_ZSH if shell == "zsh" else "") + script(), end="")
    return 0


def script() -> str:
    """The bash function; zsh reads it through bashcompinit."""
    from microtome.cli.main import COMMANDS

    flags = command_flags()
    cases = "\n".join(f'            {name}) words="{" ".join(words)}" ;;' for name, words in flags.items())
    return _BASH.format(commands=" ".join([*COMMANDS, "--help", "--version", *ALIASES]), cases=cases)


def command_flags() -> dict[str, list[str]]:
    """The words that may follow each command."""
    from microtome.cli import decompose, demo, gradients, interpret, runs, sweep, train
    from microtome.cli.flags import fields_of
    from microtome.decomposition.apd_config import APDConfig
    from microtome.decomposition.spd_config import SPDConfig
    from microtome.magnitude.config import MagnitudeConfig
    from microtome.training import config as training

    def dashed(*models: type[Config]) -> list[str]:
        return [*(f"--{name}" for name in fields_of(*models)), "--help"]

    subjects = {name: getattr(training, details[0]) for name, details in train.SUBJECTS.items()}
    return {
        "demo": dashed(demo.Options),
        "train": [*subjects, *recipes(command="train"), *dashed(train.Options, *subjects.values())],
        "decompose": [*recipes(command="decompose"), *dashed(decompose.Options, SPDConfig, APDConfig)],
        "interpret": ["latest", *dashed(interpret.Options)],
        "magnitude": dashed(MagnitudeConfig),
        "gradients": [*gradients.TASKS, *dashed(gradients.Options, *gradients.MODELS.values())],
        "sweep": [*recipes(command="sweep"), "-j", *dashed(sweep.Options)],
        "runs": dashed(runs.Options),
        "completion": ["bash", "zsh"],
    }
