"""`jaxnets shard`: where a state goes, on devices that are not there."""

import re

from conftest import run_cli


def test_every_leaf_has_a_line_and_the_sums_are_theirs(tmp_path):
    done = run_cli("shard", "digits_cnn", "--mesh.data", 1, "--mesh.fsdp", 8, cwd=tmp_path, devices=1)
    assert done.returncode == 0, done.stderr
    assert "on 8 devices" in done.stdout
    sums = re.search(r"has ([\d,]+) bytes, ([\d,]+) on each", done.stdout).groups()
    whole, each = (int(number.replace(",", "")) for number in sums)
    assert each < whole / 6
    rows = [row for row in done.stdout.splitlines() if re.match(r" *(params|opt_state|step|guard)", row)]
    assert any(row.split()[0] == "params/dense_0/kernel" for row in rows)
    reasons = r"\s([\d,]+)\s+(its largest|fewer|no dim|fsdp is)"
    assert sum(int(re.search(reasons, row)[1].replace(",", "")) for row in rows) == each
    assert any("its largest dim that 8 divides" in row for row in rows)
    assert any("fewer than 1,024 numbers" in row for row in rows)


def test_without_a_topology_it_uses_the_devices_of_this_machine(tmp_path):
    done = run_cli("shard", "digits_cnn", cwd=tmp_path, devices=1)
    assert done.returncode == 0, done.stderr
    assert "on 1 devices" in done.stdout
    assert "fsdp is 1" in done.stdout
    wrong = run_cli("shard", "digits_cnn", "--mesh.fsdpp", 8, cwd=tmp_path)
    assert wrong.returncode == 2
