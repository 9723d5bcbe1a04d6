//! A tiny run of what takes minutes otherwise: that it runs, and that its numbers make sense.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn run(arguments: &[&str], out: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chan-bench"));
    command.args(arguments).args(["--rounds", "1", "--millis", "100"]).arg("--out").arg(out);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report = std::fs::read_to_string(out.join("growth.json")).unwrap();
    serde_json::from_str(&report).unwrap()
}

/// The medians of a series' first line: one row for each point.
fn medians(report: &Value) -> Vec<Vec<f64>> {
    let points = report["series"][0]["lines"][0]["points"].as_array().unwrap();
    let values = |point: &Value| {
        let values = point["values"].as_array().unwrap().iter();
        values.map(|value| value["median"].as_f64().unwrap()).collect()
    };
    points.iter().map(values).collect()
}

#[test]
fn callers_wait_while_slots_are_held() {
    const HELD: f64 = 0.02;
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("waiting");
    let report = run(&["growth", "--only", "waiting"], &out);
    let rows = medians(&report);
    assert_eq!(rows.len(), 4);
    for (row, callers) in rows.iter().zip([512.0, 1024.0, 2048.0, 4096.0_f64]) {
        let (rate, part, median, longest) = (row[0], row[1], row[2], row[4]);
        let in_flight = callers.min(1024.0);
        assert!(rate > 0.0 && part <= 1.0, "{rate} calls a second, {part} of the ideal");
        // How many of the calls are among the first, which wait less, is a matter of time; that somebody waits for all
        // that are in front is not.
        assert!(median >= HELD, "{callers} callers, {median} s");
        assert!(longest >= median && longest >= HELD * callers / in_flight, "{callers} callers, {longest} s");
    }
    for file in ["growth.md", "growth-waiting.svg"] {
        assert!(std::fs::metadata(out.join(file)).unwrap().len() > 1000, "{file}");
    }
}

#[test]
fn a_flood_is_stopped_by_the_window() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flood");
    let report = run(&["flood"], &out);
    let rows = medians(&report);
    assert_eq!(rows.len(), 3);
    for row in &rows[1..] {
        let ahead = row[5];
        assert!((1.0..1.1).contains(&ahead), "{ahead} windows were sent ahead to who takes nothing");
    }
}

#[test]
fn refuses_unknown_part() {
    let status =
        Command::new(env!("CARGO_BIN_EXE_chan-bench")).args(["growth", "--only", "nothing"]).output();
    assert!(!status.unwrap().status.success());
}
