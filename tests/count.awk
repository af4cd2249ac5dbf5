#!/usr/bin/awk -f
# Reads what 'cargo test -- --show-output' prints, shows it without the output of passing tests, names the tests that said SKIPPED, and
# ends with one line that counts. A skipped test is no passed one. 'before' names a file with lines about what was skipped earlier.

/^successes:$/ { quiet = 1 }
/^failures:$|^test result: .* 0 filtered out;/ { quiet = 0 }
!quiet { print; fflush() }
/^---- .* stdout ----$/ { test = $2 }
/^ +Running |^ +Doc-tests / { test = "" }
match($0, /SKIPPED: .*/) {
    reason = substr($0, RSTART + 9)
    # A test is counted once, with its first reason.
    if (test == "" || !(test in seen)) list[++skipped] = (test == "" ? "" : test ": ") reason
    seen[test] = 1
}
# A test in a sandbox is a run of one test, with its own result, which is output of the test.
/^test result: .* 0 filtered out;/ { passed += $4; failed += $6 }
END {
    print ""
    passed -= skipped
    while (before != "" && (getline line < before) > 0) list[++skipped] = line
    for (i = 1; i <= skipped; i++) print "skipped: " list[i]
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
}
