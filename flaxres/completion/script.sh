# Completion of flaxres in bash and zsh, printed by `flaxres completion SHELL`.
# Source it in ~/.bashrc or ~/.zshrc; print it again after an update of flaxres.
@ZSH@
_flaxres_flags() {
  case "$1" in
@FLAGS@
  esac
}

_flaxres_values() {
  case "$1:$2" in
@VALUES@
  esac
}

_flaxres_files() {  # names of the Python files in a directory, without .py
  local file
  for file in "$1"/*.py; do
    [ -f "$file" ] || continue
    file="${file##*/}"
    [ "$file" = __init__.py ] || echo "${file%.py}"
  done
}

_flaxres() {
  local line="${COMP_LINE:0:$COMP_POINT}" current program words first command flag value
  local before candidates="" files="" reply nospace=""
  current="${line##*[[:space:]]}"
  program="${line%%[[:space:]]*}"
  program="${program##*/}"
  words="${line#*[[:space:]]}"
  first="${words%%[[:space:]]*}"
  command=""
  case "$program" in
    flaxres-*) command="${program#flaxres-}" ;;
    *)
      case " @COMMANDS@ " in
        *" $first "*) [ "$words" = "$first" ] || command="$first" ;;
      esac
      ;;
  esac
  case "$current" in
    --config=*:* | --sweep=*:*)
      before="${current%%:*}:"
      value="${current#*:}"
      case "$current" in
        --config=*) candidates="@MODELS@" ;;
        *) candidates="@CONFIGS@ $(_flaxres_files configs)" ;;
      esac
      ;;
    --*=*)
      flag="${current%%=*}"
      before="$flag="
      value="${current#*=}"
      case "$flag" in
        --config) candidates="@CONFIGS@ $(_flaxres_files configs)" files=yes nospace=yes ;;
        --sweep) candidates="@SWEEPS@ $(_flaxres_files configs/sweeps)" files=yes ;;
        --models | --deep_models) candidates="@MODELS@" ;;
        --splits) candidates="train validation test" ;;
        --init_from | --weights) candidates="@WEIGHTS@" files=yes ;;
        --list) candidates="@KINDS@" ;;
        --completion) candidates="bash zsh" ;;
        *)
          candidates="$(_flaxres_values "$command" "${flag#--}")"
          case "$flag:$candidates" in
            --config.init_from: | --config.dataset.data_dir:) files=yes ;;
            --config.*) ;;
            *:) files=yes ;;
          esac
          ;;
      esac
      case "$flag:$value" in  # the last element of a list
        --models:*,* | --deep_models:*,* | --splits:*,*)
          before="$before${value%,*},"
          value="${value##*,}"
          ;;
      esac
      ;;
    --config.*)
      before="--config."
      value="${current#--config.}"
      candidates="@FIELDS@"
      nospace=yes
      ;;
    -*)
      before=""
      value="$current"
      candidates="$(_flaxres_flags "$command") --help"
      ;;
    *)
      before=""
      value="$current"
      if [ "$program" = flaxres ] && [ "$words" = "$current" ]; then
        candidates="@COMMANDS@ help"
      else
        case "$command" in
          list) candidates="@KINDS@" ;;
          completion) candidates="bash zsh" ;;
          analyze) candidates="@ANALYSES@" ;;
          *) files=yes ;;
        esac
      fi
      ;;
  esac
  COMPREPLY=()
  while IFS= read -r reply; do
    [ -n "$reply" ] && COMPREPLY+=("$before$reply")
  done <<< "$(compgen -W "$candidates" -- "$value" | sort -u)"
  if [ -n "$files" ]; then
    while IFS= read -r reply; do
      [ -n "$reply" ] && COMPREPLY+=("$before$reply")
    done <<< "$(compgen -f -- "$value")"
    [ -n "$ZSH_VERSION" ] || compopt -o filenames 2>/dev/null
  fi
  if [ "${#COMPREPLY[@]}" -gt 0 ] && [ -z "$ZSH_VERSION" ]; then
    case "$nospace${COMPREPLY[*]}" in
      yes* | *=) compopt -o nospace 2>/dev/null ;;
    esac
  fi
  # bash completes only what follows the last = or :, if these characters divide words.
  case "$COMP_WORDBREAKS" in
    *=*) before="${current%"${current##*[=:]}"}" ;;
    *) before="" ;;
  esac
  if [ -n "$before" ] && [ "${#COMPREPLY[@]}" -gt 0 ]; then
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
  fi
}

if [ -n "$ZSH_VERSION" ]; then
  complete -o nospace -F _flaxres @PROGRAMS@
else
  complete -F _flaxres @PROGRAMS@
fi
