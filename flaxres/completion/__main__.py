"""Command that prints the completion script of a shell.

flaxres completion bash > ~/.flaxres-completion.sh   # then `source` it in ~/.bashrc
flaxres completion zsh > ~/.flaxres-completion.sh    # then `source` it in ~/.zshrc

Commands, flags, config fields, configs, models after the colon, sweeps, analyses and the values of
flags are completed. A word is completed in milliseconds, because the script contains all names.
"""

from __future__ import annotations

from pathlib import Path

from flaxres import plain_commands
from flaxres.catalog import LISTS, list_weights
from flaxres.completion.flags_of_commands import WORDS, flags_of_commands
from flaxres.config import default_config, flatten
from flaxres.config_checks import DTYPES, PARALLELISMS
from flaxres.config_types import COOLDOWN_SHAPES, OPTIMIZERS, SCHEDULES, WEIGHT_DECAY_ON
from flaxres.durations import EPOCHS
from flaxres.experiments.analyses import ANALYSES
from flaxres.model_forms import SHORTCUTS, model_names
from flaxres.models.norms import BN_SCOPES, NORMS
from flaxres.subcommands import MODES, PROGRAMS, exit_with_error
from flaxres.suggestions import did_you_mean
from flaxres.user_files import CONFIGS, SWEEPS, shipped_names

SHELLS = ("bash", "zsh")
SCRIPT = Path(__file__).with_name("script.sh")
SCRIPTS = ("flaxres", *(f"flaxres-{word}" for word in ("sweep", "degradation", "reproduction")))
SCRIPTS += ("flaxres-analyze", "flaxres-report")
ZSH = "autoload -Uz compinit bashcompinit && compinit -u && bashcompinit\n"
FIELD_VALUES = {
    "dtype": DTYPES,
    "schedule": SCHEDULES,
    "parallelism": PARALLELISMS,
    "weight_decay_on": WEIGHT_DECAY_ON,
    "trust_ratio.parameters": WEIGHT_DECAY_ON,
    "optimizer": OPTIMIZERS,
    "cooldown_shape": COOLDOWN_SHAPES,
    "bn_scope": BN_SCOPES,
    "model.norm": NORMS,
    "model.shortcut": SHORTCUTS,
    "dataset.name": ("digits", "folder", "cifar10"),
}


def completion_script(shell: str) -> str:
    """Returns the completion script of a shell.

    Args:
      shell: 'bash' or 'zsh'.
    """
    commands = flags_of_commands()
    modes = dict.fromkeys(MODES, commands[""])
    flags, values = [], []
    for command, found in (commands | modes).items():
        names = [f"--{flag.name}" + "=" * (not flag.is_boolean) for flag in found]
        has_fields = command == "sweep" or any(flag.name == "config" for flag in found)
        names += ["--config."] * has_fields
        names += ["--list", "--completion=", "--version"] if not command else []
        pattern = command or '""'
        flags.append(f"    {pattern}) echo '{' '.join(names)}' ;;")
        values += [
            f"    {command}:{flag.name}) echo '{' '.join(flag.values)}' ;;"
            for flag in found
            if flag.values
        ]
    for command, words in WORDS.items():
        options = " ".join(word for word in words if word.startswith("-"))
        flags.append(f"    {command}) echo '{options}' ;;")
    fields = flatten(default_config())
    switches = {field for field, value in fields.items() if isinstance(value, bool)}
    for field, allowed in (dict.fromkeys(switches, ("True", "False")) | FIELD_VALUES).items():
        values.append(f"    *:config.{field}) echo '{' '.join(allowed)}' ;;")
    parts = {
        "ZSH": ZSH if shell == "zsh" else "",
        "FLAGS": "\n".join(flags),
        "VALUES": "\n".join(values),
        "COMMANDS": " ".join((*MODES, *PROGRAMS)),
        "MODELS": " ".join(model_names()),
        "CONFIGS": " ".join(shipped_names(CONFIGS)),
        "SWEEPS": " ".join(shipped_names(SWEEPS)),
        "ANALYSES": " ".join(ANALYSES),
        "WEIGHTS": " ".join(entry.name for entry in list_weights()),
        "KINDS": " ".join(LISTS),
        "FIELDS": " ".join(f"{field}=" for field in (*fields, EPOCHS)),
        "PROGRAMS": " ".join(SCRIPTS),
    }
    script = SCRIPT.read_text(encoding="utf-8")
    for name, text in parts.items():
        script = script.replace(f"@{name}@", text)
    return script


def main() -> None:
    """Prints the completion script of the shell that the argument names."""
    words = plain_commands.parse_words(__doc__ or "")
    if len(words) != 1:
        exit_with_error(f"give one shell of {', '.join(SHELLS)}, got {' '.join(words) or 'none'}")
    shell = words[0]
    if shell not in SHELLS:
        exit_with_error(
            f"shell must be one of {', '.join(SHELLS)}, got {shell!r}{did_you_mean(shell, SHELLS)}"
        )
    print(completion_script(shell), end="")


if __name__ == "__main__":
    plain_commands.run(main)
