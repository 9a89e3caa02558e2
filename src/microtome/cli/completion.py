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
    from microtome.cli import (
        compare_runs,
        components,
        decompose,
        demo,
        dictionary,
        gradients,
        interpret,
        magnitude,
        runs,
        sweep,
        train,
        view,
    )
    from microtome.cli.flags import fields_of
    from microtome.decomposition.apd_config import APDConfig
    from microtome.decomposition.interpret.compare_config import CompareConfig
    from microtome.decomposition.interpret.components_config import ComponentsConfig
    from microtome.decomposition.interpret.config import InterpretConfig
    from microtome.decomposition.spd_config import SPDConfig
    from microtome.dictionaries.evaluate_config import DictionaryEvaluateConfig
    from microtome.dictionaries.train_config import DictionaryTrainConfig
    from microtome.magnitude.config import ImportanceConfig, MagnitudeConfig

    def dashed(*models: type[Config]) -> list[str]:
        return [*(f"--{name}" for name in fields_of(*models)), "--help"]

    subjects = {name: train.model_of(name) for name in train.SUBJECTS}
    dictionaries = (dictionary.TrainOptions, DictionaryTrainConfig, DictionaryEvaluateConfig)
    return {
        "demo": dashed(demo.Options),
        "train": [*subjects, *recipes(command="train"), *dashed(train.ResumableOptions, *subjects.values())],
        "decompose": [
            *decompose.TASKS,
            *recipes(command="decompose"),
            *dashed(decompose.Options, SPDConfig, APDConfig),
        ],
        "interpret": ["latest", *dashed(interpret.Options, InterpretConfig)],
        "components": ["latest", *dashed(components.Options, ComponentsConfig)],
        "compare-runs": ["latest", *dashed(compare_runs.Options, CompareConfig)],
        "magnitude": [*recipes(command="magnitude"), *dashed(magnitude.Options, MagnitudeConfig)],
        "importance": [*recipes(command="importance"), *dashed(magnitude.Options, ImportanceConfig)],
        "dictionary": [*dictionary.ACTIONS, *recipes(command="dictionary"), *dashed(*dictionaries)],
        "gradients": [*gradients.TASKS, *dashed(gradients.Options, *gradients.MODELS.values())],
        "sweep": [*recipes(command="sweep"), "-j", *dashed(sweep.Options)],
        "runs": dashed(runs.Options),
        "view": ["latest", *dashed(view.Options)],
        "completion": ["bash", "zsh"],
    }
