#!/bin/sh
# Counts the instructions of the shard's work without a kernel, and compares them with the recorded
# ones: a gate that no noise of the machine disturbs. More than 5 % above is a failure.
# Usage: scripts/instructions.sh check|record
set -eu
cd "$(dirname "$0")/.."
recorded=perf/instructions.txt
WORKS="pairs-16 pairs-256 wildcard-16 pairs-qos1-256"
FEW=20
MANY=60
TOLERANCE_PERCENT=5

fail() { echo "instructions: $*" >&2; exit 1; }

command -v valgrind >/dev/null || fail "no valgrind here: scripts/ensure.sh instructions"
program=$(cargo bench --locked -p ringtide-shard --bench turn --no-run 2>&1 |
    sed -n 's/.*Executable .*(\(.*\)).*/\1/p')
[ -n "$program" ] || fail "cargo bench -p ringtide-shard --bench turn --no-run built nothing"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# instructions WORK ROUNDS: what callgrind counts for the whole program.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file="$out/$1-$2" "$program" "$1" "$2" \
        >/dev/null 2>"$out/log" || { cat "$out/log" >&2; fail "valgrind failed"; }
    sed -n 's/^summary: *//p; s/^totals: *//p' "$out/$1-$2" | head -n 1
}

# per_round WORK: of one round, from the difference of two runs, so that the start is not in it.
per_round() {
    few=$(instructions "$1" $FEW)
    many=$(instructions "$1" $MANY)
    echo $(((many - few) / (MANY - FEW)))
}

compiler=$(rustc --version)
machine=$(uname -m)
case "${1:-}" in
record)
    {
        echo "# Instructions of a round of broker/shard/benches/turn.rs (scripts/instructions.sh)"
        echo "compiler $compiler"
        echo "machine $machine"
        for work in $WORKS; do echo "$work $(per_round "$work")"; done
    } >"$out/recorded"
    mv "$out/recorded" "$recorded"
    cat "$recorded"
    ;;
check)
    if ! grep -qx "compiler $compiler" "$recorded" || ! grep -qx "machine $machine" "$recorded"
    then
        echo "instructions: recorded with another compiler or machine, which count otherwise:"
        sed -n '/^compiler\|^machine/p' "$recorded"
        echo "instructions: not checked; on a commit that is known to be good: $0 record"
        exit 0
    fi
    worse=0
    for work in $WORKS; do
        was=$(sed -n "s/^$work //p" "$recorded")
        [ -n "$was" ] || fail "$recorded has no $work: $0 record"
        now=$(per_round "$work")
        change=$(((now - was) * 1000 / was))
        verdict=ok
        if [ "$change" -gt $((TOLERANCE_PERCENT * 10)) ]; then verdict=WORSE worse=1; fi
        printf 'instructions: %-16s %10d, recorded %10d, %+d per mille: %s\n' \
            "$work" "$now" "$was" "$change" "$verdict"
    done
    [ "$worse" = 0 ] || fail "more than $TOLERANCE_PERCENT % above $recorded; if the gain is" \
        "worth it: $0 record, and the reason in the commit"
    ;;
*) fail "usage: scripts/instructions.sh check|record" ;;
esac
