"""`jaxnets shard`: where a state goes, on devices that are not there."""

import re

from conftest import run_cli


def test_every_leaf_has_a_line_and_the_sums_are_theirs(tmp_path):
    done = run_cli("shard", "digits_cnn", "--mesh.data", 1, "--mesh.fsdp", 8, cwd=tmp_path, devices=1)
    assert done.returncode == 0, done.stderr
    lines = [
        line.split() for line in done.stdout.splitlines() if re.match(r"(params|opt_state|step|guard|average)", line)
    ]
    assert any(line[0] == "params/dense_0/kernel" for line in lines), done.stdout
    assert "on 8 devices" in done.stdout
    whole, each = (
        int(n.replace(",", "")) for n in re.search(r"has ([\d,]+) bytes, ([\d,]+) on each", done.stdout).groups()
    )
    assert each < whole / 6
    rows = [line for line in done.stdout.splitlines() if re.match(r"(params|opt_state|step|guard|average)", line)]
    shown = sum(
        int(re.search(r"\s([\d,]+)\s+(its largest|fewer|no dim|fsdp is)", row)[1].replace(",", "")) for row in rows
    )
    assert shown == each
    assert any("its largest dim that 8 divides" in row for row in rows)
    assert any("fewer than 1,024 numbers" in row for row in rows)


def test_on_this_machine_it_takes_the_devices_there_are(tmp_path):
    done = run_cli("shard", "digits_cnn", cwd=tmp_path, devices=1)
    assert done.returncode == 0, done.stderr
    assert "on 1 devices" in done.stdout
    assert "fsdp is 1" in done.stdout
    wrong = run_cli("shard", "digits_cnn", "--mesh.fsdpp", 8, cwd=tmp_path)
    assert wrong.returncode == 2
