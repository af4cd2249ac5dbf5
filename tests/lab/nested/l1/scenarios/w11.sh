#!/bin/bash
# Three starts that must be refused: the wrapper without its hook, a request without the wrapper, a model that does not exist.
. "$(dirname "$0")/../lib.sh"
define w11 ram=64 emulator="$WRAPPER" request=intel
without_hook try w11 w11-hook
define w11 ram=64 request=intel
try w11 w11-wrapper
define w11 ram=64 emulator="$WRAPPER" request=Intel
try w11 w11-model
