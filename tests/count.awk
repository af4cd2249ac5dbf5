#!/usr/bin/awk -f
# Reads the output of 'cargo test -- --show-output', prints it without the output of passing tests, lists the tests that
# printed SKIPPED, and ends with one line that counts. A skipped test does not count as passed. 'before' names a file with
# lines about earlier skips.

/^successes:$/ { quiet = 1 }
/^failures:$|^test result: .* 0 filtered out;/ { quiet = 0 }
!quiet { print; fflush() }
/^---- .* stdout ----$/ { test = $2 }
/^ +Running |^ +Doc-tests / { test = "" }
match($0, /SKIPPED: .*/) {
    reason = substr($0, RSTART + 9)
    # A test counts once, with its first reason.
    if (test == "" || !(test in seen)) list[++skipped] = (test == "" ? "" : test ": ") reason
    seen[test] = 1
}
# A test in a sandbox runs one test again; the result of that run is output of the test.
/^test result: .* 0 filtered out;/ { passed += $4; failed += $6 }
END {
    print ""
    passed -= skipped
    while (before != "" && (getline line < before) > 0) list[++skipped] = line
    for (i = 1; i <= skipped; i++) print "skipped: " list[i]
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
}
