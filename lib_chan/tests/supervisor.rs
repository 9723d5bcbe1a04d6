//! Supervisors beside Erlang's: the same random programs, and the same children started, shut down and left.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use lib_chan::{
    Address, Event, ExitReason, Process, SpawnOptions, enter,
    supervisor::{Child, Restart, Shutdown, Strategy, Supervisor, SupervisorMessage},
};

const PROGRAMS: u64 = 300;

/// The same numbers for the same seed, on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

#[derive(Clone, Copy)]
struct Spec {
    restart: Restart,
    brutal: bool,
}

#[derive(Clone, Copy)]
enum Step {
    Ends(usize, &'static str),
    Start(Spec),
    Stop(usize),
}

struct Program {
    strategy: Strategy,
    intensity: usize,
    children: Vec<Spec>,
    steps: Vec<Step>,
}

impl Program {
    fn random(seed: u64) -> Self {
        let random = &mut Random(seed);
        let spec = |random: &mut Random| Spec {
            restart: random.pick(&[Restart::Permanent, Restart::Transient, Restart::Temporary]),
            brutal: random.below(4) == 0,
        };
        let children = 1 + random.below(4) as usize;
        let mut all = children as u64;
        Self {
            strategy: random.pick(&[Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne]),
            intensity: random.below(5) as usize,
            children: (0..children).map(|_| spec(random)).collect(),
            steps: (0..8)
                .map(|_| match random.below(10) {
                    0 => {
                        all += 1;
                        Step::Start(spec(random))
                    }
                    1 => Step::Stop(random.below(all) as usize),
                    _ => {
                        let reason = random.pick(&["normal", "shutdown", "boom", "kill"]);
                        Step::Ends(random.below(all) as usize, reason)
                    }
                })
                .collect(),
        }
    }

    /// As a term of Erlang.
    fn term(&self) -> String {
        let strategy = match self.strategy {
            Strategy::OneForOne => "one_for_one",
            Strategy::OneForAll => "one_for_all",
            Strategy::RestForOne => "rest_for_one",
        };
        let children: Vec<_> = self.children.iter().map(Spec::term).collect();
        let steps: Vec<_> = self.steps.iter().map(Step::term).collect();
        format!("{{{strategy},{},[{}],[{}]}}.", self.intensity, children.join(","), steps.join(","))
    }
}

impl Spec {
    fn term(&self) -> String {
        let shutdown = if self.brutal { "brutal_kill" } else { "infinity" };
        format!("{{{},{shutdown}}}", format!("{:?}", self.restart).to_lowercase())
    }

    fn child(self, id: usize, log: &Log) -> Child {
        let log = log.clone();
        let shutdown = if self.brutal { Shutdown::Kill } else { Shutdown::Forever };
        let start = move |me| {
            log.push(&format!("s{id}"));
            child(me, id, log.clone())
        };
        Child::new(id.to_string(), start)
            .options(SpawnOptions { trap_exit: true, ..SpawnOptions::default() })
            .restart(self.restart)
            .shutdown(shutdown)
    }
}

impl Step {
    fn term(&self) -> String {
        match self {
            Self::Ends(id, reason) => format!("{{ends,{id},{reason}}}"),
            Self::Start(spec) => format!("{{start,{}}}", spec.term()),
            Self::Stop(id) => format!("{{stop,{id}}}"),
        }
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    fn push(&self, what: &str) {
        let mut log = self.0.lock().unwrap();
        let space = if log.is_empty() { "" } else { " " };
        write!(log, "{space}{what}").unwrap();
    }
}

/// Ends as it is told, or with the reason of the exit signal that it gets.
async fn child(mut me: Process, id: usize, log: Log) -> Result<(), ExitReason> {
    let reason = match me.recv().await {
        // The test tells it to end with a signal that no supervisor sends.
        Event::Exit(_, ExitReason::Failed(text)) if &*text != "boom" => match &*text {
            "to normal" => ExitReason::Normal,
            "to shutdown" => ExitReason::Shutdown,
            _ => ExitReason::failed("boom"),
        },
        Event::Exit(_, reason) => {
            log.push(&format!("t{id}"));
            reason
        }
        other => panic!("{other:?}"),
    };
    if reason == ExitReason::Normal { Ok(()) } else { Err(reason) }
}

async fn run(program: Program) -> String {
    let log = Log::default();
    let ended = enter(async |mut me: Process| {
        me.trap_exit(true);
        let mut supervisor =
            Supervisor::new(program.strategy).intensity(program.intensity, Duration::from_secs(3600));
        for (id, spec) in program.children.iter().enumerate() {
            supervisor = supervisor.child(spec.child(id, &log));
        }
        let supervisor = supervisor.start_link(&me).await?;
        let mut count = program.children.len();
        for step in program.steps {
            perform(&supervisor, step, &mut count, &log).await;
            if let Some(children) = list(&supervisor).await {
                log.push(&children);
            }
        }
        supervisor.stop().await;
        match me.recv().await {
            Event::Exit(_, reason) => log.push(&format!("over:{reason}")),
            other => panic!("{other:?}"),
        }
        Ok(())
    });
    ended.await.unwrap();
    let log = log.0.lock().unwrap();
    log.clone()
}

async fn perform(supervisor: &Address<SupervisorMessage>, step: Step, count: &mut usize, log: &Log) {
    let Ok(children) = supervisor.children().await else { return };
    match step {
        Step::Ends(id, reason) => {
            let child = children.into_iter().find(|child| *child.id == id.to_string());
            let Some(pid) = child.and_then(|child| child.pid) else { return };
            pid.exit(match reason {
                "kill" => ExitReason::Kill,
                reason => ExitReason::failed(format!("to {reason}")),
            });
            pid.ended().await;
        }
        Step::Start(spec) => {
            supervisor.start_child(spec.child(*count, log)).await.unwrap();
            *count += 1;
        }
        // A child that is not there is refused.
        Step::Stop(id) => drop(supervisor.stop_child(&id.to_string()).await),
    }
}

/// The children, as the script of Erlang shows them.
async fn list(supervisor: &Address<SupervisorMessage>) -> Option<String> {
    let children = supervisor.children().await.ok()?;
    let shown = children.iter().map(|child| match child.pid {
        Some(_) => child.id.to_string(),
        None => format!("-{}", child.id),
    });
    Some(format!("[{}]", shown.collect::<Vec<_>>().join(" ")))
}

/// Whether the test can run. If not it says so, or fails where nothing may be skipped.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn erlang_is_installed() -> bool {
    if Command::new("sh")
        .args(["-c", "command -v escript"])
        .output()
        .is_ok_and(|found| found.status.success())
    {
        return true;
    }
    assert!(std::env::var_os("CHAN_TEST_SKIP").is_none(), "escript is missing, and nothing may be skipped");
    eprintln!("skipped: escript is not installed");
    false
}

#[tokio::test]
async fn supervisors_do_as_those_of_erlang() {
    if !erlang_is_installed() {
        return;
    }
    let terms: String = (0..PROGRAMS).map(|seed| Program::random(seed).term() + "\n").collect();
    let mut erlang = Command::new("escript")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/supervisor.escript"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = erlang.stdin.take().unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(terms.as_bytes()));
    let output = erlang.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success());
    let expected = String::from_utf8(output.stdout).unwrap();
    assert_eq!(expected.lines().count() as u64, PROGRAMS);
    for (seed, expected) in (0..).zip(expected.lines()) {
        let program = Program::random(seed);
        let term = program.term();
        assert_eq!(run(program).await, expected, "program {seed}: {term}");
    }
}
