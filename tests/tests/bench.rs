//! The benchmark: that it measures every row. What comes out is not asked for: it depends on the machine.

use anyhow::{Context, Result, ensure};
use roost_programs::built;
use serde_json::Value;

#[test]
fn every_row_is_measured() -> Result<()> {
    let mut command = built(env!("CARGO_BIN_EXE_roost-bench"))?;
    let output = command.args(["--rounds", "1", "--json"]).output()?;
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "{}:\n{stderr}", output.status);
    let last = stdout.lines().last().with_context(|| format!("nothing on stdout:\n{stderr}"))?;
    let measured: Value = serde_json::from_str(last).with_context(|| last.to_owned())?;
    for (of, rows) in
        [("ingress_ns", 16), ("inside_ns", 4), ("egress_ns", 8), ("verified", 7), ("jit_bytes", 7)]
    {
        let found = measured[of].as_object().with_context(|| format!("no {of} in {measured}"))?;
        ensure!(found.len() >= rows, "{of}: {found:?}");
        ensure!(found.values().all(|n| n.as_f64().is_some_and(|n| n > 0.0)), "{of}: {found:?}");
    }
    for family in ["ipv4", "ipv6"] {
        for which in ["first", "further"] {
            let bytes = measured["bytes_per_connection"][which][family].as_u64();
            ensure!(bytes.is_some_and(|bytes| bytes > 0), "{which}, {family}: {measured}");
        }
    }
    Ok(())
}
