//! Random programs of processes, links, monitors, names and exits, run on a real Erlang and on our processes. What
//! every process sees must be the same.
//!
//! A program is a list of steps. In each, one process does a few things without a rest; then all come to rest: every
//! process is asked whether it has seen anything, again and again, until nobody has. Nothing waits for time to pass.
//!
//! The processes are in one place, or spread over the two ends of a session: in Erlang, over two nodes. Then two of
//! them may do something at the same time, and the connection may be lost. Each end of the session has an owner; when it
//! ends, so does the session. In Erlang the connection is cut once all that follows from that end has come to rest.
//!
//! A campaign is a command, which also runs one program again by its seed:
//!
//! ```console
//! $ cargo run -p chan-tests --bin differential -- --programs 20000 --steps 25 --first 0 --ends 1
//! $ cargo run -p chan-tests --bin differential -- --programs 10000 --steps 25 --first 0 --ends 2
//! ```

pub mod erlang;
pub mod generate;
pub mod ours;
pub mod program;
pub mod random;
mod relations;
mod session;
pub mod trace;

use tokio::runtime::{Builder, Runtime};

use erlang::Erlang;
use ours::World;
use program::{Ends, OUTSIDE, Op, Program, Step};
use trace::{Difference, Seen, Trace};

/// What a campaign has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Programs compared.
    pub programs: u64,
    /// Their steps.
    pub steps: u64,
    /// What operations returned, in Erlang. So are those that follow.
    pub returns: u64,
    /// Messages taken.
    pub messages: u64,
    /// Exit signals trapped.
    pub exits: u64,
    /// Monitors that fired.
    pub downs: u64,
    /// Processes ended.
    pub ends: u64,
    /// Programs in which the connection was lost.
    pub cut: u64,
    /// Steps done at the same time as another.
    pub meanwhile: u64,
    /// Programs in which an owner ended before the last look.
    pub disowned: u64,
}

impl Figures {
    fn count(&mut self, program: &Program, trace: &Trace, ends: Ends) {
        let cut = program.0.iter().any(|step| matches!(step.ops.first(), Some(Op::Cut(_))));
        self.programs += 1;
        self.cut += u64::from(cut);
        self.meanwhile += program.0.iter().map(|step| u64::from(step.meanwhile)).sum::<u64>();
        self.steps += u64::from(trace.steps());
        // In the last look only those outside do anything to others.
        let acts = program.0.iter().rposition(|step| step.actor != OUTSIDE).unwrap_or(0);
        let ends_early = |entry: &trace::Entry| {
            usize::from(entry.step) < acts && ends.owns(entry.actor) && matches!(entry.seen, Seen::Ended(_))
        };
        self.disowned += u64::from(trace.0.iter().any(ends_early));
        for entry in &trace.0 {
            *match entry.seen {
                Seen::Returned(..) => &mut self.returns,
                Seen::Message(..) => &mut self.messages,
                Seen::Exit(..) => &mut self.exits,
                Seen::Down(..) => &mut self.downs,
                Seen::Ended(_) => &mut self.ends,
            } += 1;
        }
    }
}

/// Compares programs, one Erlang and one runtime for all.
#[derive(Debug)]
pub struct Campaign {
    erlang: Erlang,
    runtime: Runtime,
    steps: usize,
    ends: Ends,
}

/// Programs in one packet.
const BATCH: u64 = 200;

impl Campaign {
    /// Starts Erlang. Programs have this many steps, up to 150, besides a first and those of the last look. Our
    /// processes run on so many threads; on one, a program runs in the same way every time.
    ///
    /// # Panics
    /// If there is no Erlang.
    pub fn start(steps: usize, threads: usize, ends: Ends) -> Self {
        let mut builder =
            if threads > 1 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
        let runtime = builder.worker_threads(threads).enable_time().build().expect("a runtime");
        Self { erlang: Erlang::start(ends), runtime, steps, ends }
    }

    /// Compares the programs of these seeds.
    ///
    /// # Errors
    /// The first difference, as a text: the seed, and the shortest program found that still shows one.
    ///
    /// # Panics
    /// If Erlang is gone.
    pub fn run(&mut self, seeds: std::ops::Range<u64>) -> Result<Figures, String> {
        let mut figures = Figures::default();
        let mut start = seeds.start;
        let mut batch = self.generate(start..seeds.end.min(start + BATCH));
        while !batch.is_empty() {
            self.erlang.send(batch.iter().map(|(program, _)| program)).expect("Erlang takes programs");
            // While Erlang runs these.
            let next = start + BATCH;
            let following = self.generate(next..seeds.end.min(next + BATCH));
            let theirs = self.erlang.receive().expect("Erlang answers");
            assert_eq!(theirs.len(), batch.len(), "each program has a trace");
            for (seed, ((program, ours), theirs)) in (start..).zip(batch.into_iter().zip(theirs)) {
                let theirs = theirs.comparable(&program);
                figures.count(&program, &theirs, self.ends);
                if ours.comparable(&program) != theirs {
                    return Err(self.explain(seed, program));
                }
            }
            batch = following;
            start = next;
        }
        Ok(figures)
    }

    fn generate(&self, seeds: std::ops::Range<u64>) -> Vec<(Program, Trace)> {
        let generate = |seed| generate::generate(seed, self.steps, self.ends);
        seeds.map(|seed| self.runtime.block_on(generate(seed))).collect()
    }

    /// Both traces of a program, in the form in which they are compared.
    fn traces(&mut self, program: &Program) -> (Trace, Trace) {
        let ours = self.runtime.block_on(World::run(program, self.ends));
        (ours.comparable(program), self.erlang.run(program).comparable(program))
    }

    fn explain(&mut self, seed: u64, program: Program) -> String {
        let program = self.shrink(program);
        let (ours, theirs) = self.traces(&program);
        let difference = Difference { program: &program, ours: &ours, theirs: &theirs };
        format!(
            "seed {seed} with {} steps differs; at its shortest:\n{difference}run it again with\n  \
             cargo run -p chan-tests --bin differential -- --first {seed} --programs 1 --steps {} --ends {}\n",
            self.steps,
            self.steps,
            self.ends as u8 + 1
        )
    }

    /// Leaves out steps, then single things done in them, as long as the two worlds still differ.
    fn shrink(&mut self, mut program: Program) -> Program {
        loop {
            let len = program.0.len();
            let candidates = (0..len).rev().map(|step| without_step(&program, step));
            let smaller = (0..len).rev().flat_map(|step| without_ops(&program, step));
            let candidates: Vec<_> = candidates.chain(smaller).collect();
            let mut differs = |program: &Program| {
                let (ours, theirs) = self.traces(program);
                ours != theirs && relations::decides(program, self.ends, &ours)
            };
            let Some(smaller) = candidates.into_iter().find(|program| differs(program)) else {
                return program;
            };
            program = smaller;
        }
    }
}

/// What was done at the same time as the step is then done alone.
fn without_step(program: &Program, step: usize) -> Program {
    let mut smaller = program.clone();
    smaller.0.remove(step);
    if let Some(before) = step.checked_sub(1).and_then(|before| smaller.0.get_mut(before)) {
        before.meanwhile = false;
    }
    smaller
}

/// Of steps at the same time all links and ends stay: with others it could be open what comes of them.
fn without_ops(program: &Program, step: usize) -> Vec<Program> {
    let Some(Step { actor, ops, meanwhile }) = program.0.get(step) else { return Vec::new() };
    let before = step.checked_sub(1).and_then(|before| program.0.get(before));
    let paired = *meanwhile || before.is_some_and(|before| before.meanwhile);
    let stays = |op: &Op| paired && (matches!(op, Op::Link(_) | Op::Unlink(_)) || op.ends(*actor));
    let without = |op: usize| {
        let mut smaller = program.clone();
        smaller.0[step].ops.remove(op);
        smaller
    };
    let len = ops.len();
    (0..len).filter(|op| len > 1 && !stays(&ops[*op])).map(without).collect()
}
