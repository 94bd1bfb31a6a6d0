#!/usr/bin/env bash
# The one entry: sets up .venv, then serves the page, trains, evaluates or tests. `./launch.sh help` lists what it does.
#
# Stays in the caller's directory, so that relative paths in options mean what the caller means. Runs with bash 3.2 too.
set -euo pipefail

script="${BASH_SOURCE[0]}"
while [ -L "$script" ]; do
  target="$(readlink "$script")"
  case "$target" in
    /*) script="$target" ;;
    *) script="$(dirname "$script")/$target" ;;
  esac
done
root="$(cd -P "$(dirname "$script")" && pwd)"
venv="$root/.venv"
python="$venv/bin/python"

case "${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}" in
  zh*) language=zh ;;
  *) language=en ;;
esac

in_language() { if [ "$language" = zh ]; then printf '%s\n' "$2"; else printf '%s\n' "$1"; fi; }
say() { in_language "$@" >&2; }
fail() {
  in_language "Error: $1" "错误：$2" >&2
  exit 1
}

help() {
  in_language "Usage: ./launch.sh [command] [options]

  (none), serve   serve the page on port 7860; options go to the page, see ./launch.sh serve --help
  train           train a prefix from the command line, see ./launch.sh train --help
  chat            chat in the terminal, see ./launch.sh chat --help
  evaluate        answer a file's rows and score them; with no options, the latest checkpoint against its base
  data            what is wrong with a data file, line by line, see ./launch.sh data --help
  balance         how a data file divides over names, pronouns and regions, see ./launch.sh balance --help
  export          take a prefix to the original's scripts or to peft, see ./launch.sh export --help
  library         name, find, push and pull prefixes, see ./launch.sh library --help
  bench           run a benchmark: ./launch.sh bench [name] [options]
  test            run every check; options go to pytest
  help            this text

Examples:
  ./launch.sh                                  the embedded demo model
  ./launch.sh --model THUDM/chatglm2-6b        ChatGLM2-6B, downloaded when first used
  ./launch.sh --model DIR --port 7861          a model on this machine, another port

Environment:
  PYTHON            the Python (3.11 or later) that makes .venv
  PIP_INDEX_URL     another package index        TORCH_INDEX_URL   one more index, for torch's own builds
  NUM_GPUS          GPUs that train together, through torchrun [1]" \
    "用法：./launch.sh [命令] [选项]

  （无）、serve   启动网页，端口 7860；选项见 ./launch.sh serve --help
  train           在命令行训练前缀，选项见 ./launch.sh train --help
  chat            在终端中对话，选项见 ./launch.sh chat --help
  evaluate        回答文件中的每一行并评分；不带选项时比较最新的检查点与基座模型
  data            逐行检查数据文件的问题，选项见 ./launch.sh data --help
  balance         报告数据在姓名、代词、地区等属性间的分布，选项见 ./launch.sh balance --help
  export          把前缀导出给原版脚本或 peft 使用，选项见 ./launch.sh export --help
  library         为前缀命名、查找、上传和下载，选项见 ./launch.sh library --help
  bench           运行性能测试：./launch.sh bench [名称] [选项]
  test            运行全部检查，选项会传给 pytest
  help            显示本说明

示例：
  ./launch.sh                                  使用内置的演示模型
  ./launch.sh --model THUDM/chatglm2-6b        使用 ChatGLM2-6B，首次使用时下载
  ./launch.sh --model 目录 --port 7861         使用本机上的模型和另一个端口

环境变量：
  PYTHON            用来创建 .venv 的 Python（3.11 或更新）
  PIP_INDEX_URL     改用其他软件包源        TORCH_INDEX_URL   为 torch 追加一个软件包源
  NUM_GPUS          通过 torchrun 共同训练的 GPU 数 [1]"
}

# --- setting up ------------------------------------------------------------------------------------------------------

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate old=""
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
    command -v "$candidate" >/dev/null || continue
    if is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
    old="${old:-$("$candidate" --version 2>&1 || true)}"
  done
  if [ -n "$old" ]; then
    fail "Python 3.11 or later is needed, but this machine has ${old}. Install a newer one, or name it: PYTHON=/path/to/python3 ./launch.sh" \
      "需要 Python 3.11 或更新版本，本机只有 ${old}。请安装新版本，或用 PYTHON=/路径/python3 ./launch.sh 指定。"
  fi
  fail "Python 3.11 or later is needed, but no python3 was found. Install it, or name it: PYTHON=/path/to/python3 ./launch.sh" \
    "需要 Python 3.11 或更新版本，但没有找到 python3。请先安装，或用 PYTHON=/路径/python3 ./launch.sh 指定。"
}

make_venv() {
  local base output
  base="$(find_python)" || exit 1
  if ! "$base" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    fail "$base has no venv module, which makes .venv. On Debian and Ubuntu: apt install python3-venv" \
      "$base 缺少创建 .venv 所需的 venv 模块。Debian/Ubuntu 请运行：apt install python3-venv"
  fi
  say "Making .venv with $("$base" --version) …" "正在用 $("$base" --version) 创建 .venv …"
  if ! output="$("$base" -m venv --clear "$venv" 2>&1)"; then
    explain_failure "$output"
    fail ".venv could not be made in $root: $(printf '%s' "$output" | tail -n 1)" \
      "无法在 $root 创建 .venv：$(printf '%s' "$output" | tail -n 1)"
  fi
}

# Fails with a sentence if the output of a failed command, in $1, is of a kind that we know.
explain_failure() {
  case "$1" in
    *"No space left"* | *"Errno 28"*)
      fail "The disk is full. Free some space (the packages take 2 GB, 5.5 GB with CUDA) and run the same command again." \
        "磁盘已满。请腾出空间（软件包约需 2 GB，含 CUDA 约 5.5 GB），再运行同一命令。"
      ;;
    *"No matching distribution found for torch=="*)
      fail "There is no torch of this version for this system and Python. It is built for Linux, Windows (use WSL) and Macs with an Apple chip; use Python 3.11, 3.12 or 3.13: PYTHON=python3.12 ./launch.sh" \
        "没有适用于本系统和当前 Python 的 torch。它支持 Linux、Windows（请用 WSL）和 Apple 芯片的 Mac；请使用 Python 3.11、3.12 或 3.13：PYTHON=python3.12 ./launch.sh"
      ;;
    *"Failed to establish a new connection"* | *"Temporary failure in name resolution"* | *"Network is unreachable"* | \
      *"ReadTimeoutError"* | *"ConnectTimeoutError"* | *"ProxyError"* | *"Connection refused"* | *"connection broken by"*)
      fail "The package index cannot be reached. Check the network, or name another index: PIP_INDEX_URL=https://… ./launch.sh" \
        "无法连接软件包源。请检查网络，或指定其他源：PIP_INDEX_URL=https://… ./launch.sh"
      ;;
  esac
}

install_requirements() { # $1: requirements.txt or requirements-dev.txt
  local log="$venv/install.log"
  say "Installing the packages of $1; the first time this takes some minutes …" "正在安装 $1 中的软件包，首次需要几分钟 …"
  if ! "$python" -P -m pip install --disable-pip-version-check --progress-bar off -r "$root/$1" \
    ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} 2>&1 |
    tee "$log" | { grep --line-buffered -E '^ +Downloading .*[0-9]{2}\.[0-9] MB|^ +Downloading .* GB|^Installing collected' | cut -c -100 >&2 || true; }; then
    explain_failure "$(cat "$log")"
    tail -n 8 "$log" >&2
    fail "pip could not install the packages of $1 (its whole output: $log)." "pip 未能安装 $1 中的软件包（完整输出：$log）。"
  fi
}

# A copy of each installed file tells whether the requirements changed.
is_set_up() { # $1: requirements.txt or requirements-dev.txt
  [ -x "$python" ] && cmp -s "$root/requirements.txt" "$venv/installed-requirements.txt" && cmp -s "$root/$1" "$venv/installed-$1"
}

set_up() { # $1: requirements.txt or requirements-dev.txt
  is_set_up "$1" && return
  [ -w "$root" ] || fail "$root is not writable, so .venv cannot be made there." "$root 不可写，无法创建 .venv。"
  if command -v flock >/dev/null; then # a second launch waits for the first one's installation
    exec 9<"$root"
    flock 9
  fi
  if ! is_set_up "$1"; then
    is_new_enough "$python" || make_venv
    install_requirements "$1"
    cp "$root/requirements.txt" "$venv/installed-requirements.txt"
    cp "$root/$1" "$venv/installed-$1"
  fi
  exec 9<&-
}

# -P: a directory called app/ where the caller stands is not ours.
run_module() {
  # A page that many use has many threads, and each of malloc's arenas keeps what was freed in it.
  export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}"
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
  exec "$python" -P -m "$@"
}

# One process, or NUM_GPUS of them through torchrun; TORCHRUN_ARGS are its own flags, for several machines.
train() {
  local gpus="${NUM_GPUS:-1}"
  case "$gpus" in
    "" | *[!0-9]* | 0*) fail "NUM_GPUS must be a whole number of 1 or more; found '$gpus'." "NUM_GPUS 应为不小于 1 的整数，实际为“$gpus”。" ;;
  esac
  if [ "$gpus" = 1 ] && [ -z "${TORCHRUN_ARGS:-}" ]; then
    run_module training.main "$@"
  fi
  export PYTHONSAFEPATH=1 # as -P, for the processes that torchrun starts
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # what torchrun would choose, with a warning
  # shellcheck disable=SC2086 # several words
  run_module training.distributed.torchrun ${TORCHRUN_ARGS:---standalone} --nproc_per_node "$gpus" -m training.main "$@"
}

# --- testing ---------------------------------------------------------------------------------------------------------

has_browser() {
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
    "$python" -c 'import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    sys.exit(not os.path.exists(playwright.chromium.executable_path))' 2>/dev/null
}

bring_browser() {
  if [ "$(id -u)" = 0 ] && grep -q '^ID=debian' /etc/os-release 2>/dev/null; then
    has_browser && [ -n "$(fc-list :lang=zh 2>/dev/null)" ] && return
    say "Installing chromium and Chinese fonts with apt-get …" "正在用 apt-get 安装 chromium 和中文字体 …"
    { apt-get update && apt-get install -y --no-install-recommends chromium fonts-noto-cjk; } >"$venv/browser.log" 2>&1 || true
  elif ! has_browser; then
    say "Installing Playwright's browser …" "正在安装 Playwright 自带的浏览器 …"
    "$python" -m playwright install chromium >"$venv/browser.log" 2>&1 || true
  fi
  has_browser && return
  tail -n 3 "$venv/browser.log" >&2
  say "No browser could be installed (see $venv/browser.log): the browser tests are skipped." \
    "未能安装浏览器（见 $venv/browser.log）：跳过浏览器测试。"
  return 1
}

check() { # $1: name; the rest: the command
  local name="$1"
  shift
  say "── $name" "── $name"
  if "$@"; then passed="$passed $name"; else failed="$failed $name"; fi
}

say_result() { # $1: process; $2: what it wrote
  local code=0
  wait "$1" || code=$?
  cat "$2"
  return "$code"
}

run_tests() {
  local passed="" failed="" types
  set_up requirements-dev.txt
  cd "$root"
  # On a build server a skipped browser test would pass for a tested page.
  bring_browser || [ "${CI:-}" != true ] || failed=" browser"
  check format "$python" -m ruff format --check .
  check lint "$python" -m ruff check .
  check imports "$venv/bin/lint-imports" --no-logo
  "$python" -m mypy >"$venv/types.log" 2>&1 & # beside the tests, which leave a core idle now and then
  types=$!
  check tests "$python" -m pytest -n auto "$@"
  check types say_result "$types" "$venv/types.log"
  say "── Passed:${passed:- none}. Failed:${failed:- none}." "── 通过：${passed:- 无}。失败：${failed:- 无}。"
  [ -z "$failed" ]
}

run_benchmark() {
  local name="${1:-}" file
  if ! grep -qs '__name__ == "__main__"' "$root/benchmarks/$name.py"; then
    say "Benchmarks:" "可运行的性能测试："
    grep -l '__name__ == "__main__"' "$root"/benchmarks/*.py | while read -r file; do
      file="$(basename "$file" .py)"
      say "  $file" "  $file"
    done
    [ -z "$name" ] || fail "There is no benchmark '$name'." "没有名为“$name”的性能测试。"
    return
  fi
  set_up requirements.txt
  shift
  run_module "benchmarks.$name" "$@"
}

case "${1:-}" in
  help | -h | --help) help ;;
  "" | -*)
    set_up requirements.txt
    run_module app "$@"
    ;;
  serve)
    shift
    set_up requirements.txt
    run_module app "$@"
    ;;
  train)
    shift
    set_up requirements.txt
    train "$@"
    ;;
  chat)
    shift
    set_up requirements.txt
    run_module training.cli.chat "$@"
    ;;
  evaluate)
    shift
    set_up requirements.txt
    run_module training.main --do_predict "$@"
    ;;
  data)
    shift
    set_up requirements.txt
    run_module training.cli.data "$@"
    ;;
  balance)
    shift
    set_up requirements.txt
    run_module training.cli.balance "$@"
    ;;
  export)
    shift
    set_up requirements.txt
    run_module training.cli.export "$@"
    ;;
  library)
    shift
    set_up requirements.txt
    run_module training.cli.library "$@"
    ;;
  bench)
    shift
    run_benchmark "$@"
    ;;
  test)
    shift
    run_tests "$@"
    ;;
  *)
    fail "There is no command '$1'. ./launch.sh help lists the commands." "没有命令“$1”。可用命令见 ./launch.sh help"
    ;;
esac
