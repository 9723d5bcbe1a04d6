//! The whole: starts the programs, makes the faults, takes samples, and asks at the end what was counted.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Options,
    count::Totals,
    net::{Fate, Net},
    report::Report,
    sample::{Sample, Second},
};
use crate::{differential::random::Random, port_of};

/// Programs with clients that are killed now and then, and how many sessions each of them keeps.
const MORTALS: usize = 10;
const SESSIONS_EACH: usize = 5;
/// How long a program may take to say what it counted, once it was asked.
const ANSWERS: Duration = Duration::from_secs(120);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    ConnectionEnds,
    ConnectionIsReset,
    ConnectionGoesSilent,
    ConnectionIsHeld,
    ClientIsDropped,
    ClientStopsReading,
    ClientCloses,
    ClientProgramIsKilled,
    ServiceIsKilled,
    ServiceFails,
}

/// As often as this they occur.
const FAULTS: [(usize, Fault); 10] = [
    (15, Fault::ConnectionEnds),
    (15, Fault::ConnectionIsReset),
    (5, Fault::ConnectionGoesSilent),
    (15, Fault::ConnectionIsHeld),
    (15, Fault::ClientIsDropped),
    (10, Fault::ClientStopsReading),
    (5, Fault::ClientCloses),
    (2, Fault::ClientProgramIsKilled),
    (13, Fault::ServiceIsKilled),
    (5, Fault::ServiceFails),
];

/// What a program said last.
#[derive(Clone, Debug, Default)]
struct Said {
    url: Option<String>,
    tick: Totals,
    end: Option<Totals>,
}

/// A program of ours that plays a part.
struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
}

impl Program {
    fn start(arguments: &[String]) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = Arc::new(Mutex::new(Said::default()));
        if let Some(stdout) = child.stdout.take() {
            let said = Arc::clone(&said);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    said.lock().unwrap_or_else(PoisonError::into_inner).take_in(&line);
                }
            });
        }
        Ok(Self { stdin: child.stdin.take(), child, said })
    }

    fn clients(url: &str, sessions: usize, seed: u64) -> io::Result<Self> {
        let words =
            ["clients", "--url", url, "--sessions", &sessions.to_string(), "--seed", &seed.to_string()];
        Self::start(&words.map(str::to_owned))
    }

    fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            // One that is gone is seen at the end.
            let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
        }
    }

    /// Asks what it counted, and waits for the answer.
    async fn finish(mut self) -> Option<Totals> {
        drop(self.stdin.take());
        let ended = timeout(ANSWERS, self.child.wait()).await;
        // What it printed last is read by a task, which may be behind.
        for _ in 0..100 {
            if let Some(end) = self.said().end {
                return Some(end);
            }
            if ended.is_err() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }
}

impl Said {
    fn take_in(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("url", url)) => self.url = Some(url.into()),
            Some(("tick", totals)) => self.tick = serde_json::from_str(totals).unwrap_or_default(),
            Some(("end", totals)) => self.end = serde_json::from_str(totals).ok(),
            _ => {}
        }
    }
}

/// All programs of a run.
struct Stage {
    server: Program,
    clients: Program,
    mortals: Vec<Program>,
    net: Net,
    url: String,
    random: Random,
    struck: BTreeMap<Fault, u64>,
    programs: u64,
}

/// Runs it all: prints the figures, writes them, and says whether everything held.
///
/// # Errors
/// When a program cannot be started, or nothing can be written.
pub async fn soak(options: &Options) -> io::Result<bool> {
    let mut stage = Stage::set(options).await?;
    let seconds = stage.play(options).await?;
    let report = stage.finish(seconds).await;
    let folder = folder()?;
    let picture = report.write(&folder)?;
    let wrong = report.wrong();
    print(&report.text());
    print(&format!("the picture: {}", picture.display()));
    match wrong.as_slice() {
        [] => print("everything that was started has ended, and nothing grew"),
        wrong => print(&format!("WRONG:\n  {}", wrong.join("\n  "))),
    }
    Ok(wrong.is_empty())
}

#[expect(clippy::print_stdout, reason = "it is what the program is run for")]
fn print(text: &str) {
    println!("{text}");
}

/// Beside the program: the target folder.
fn folder() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).unwrap_or(&program);
    Ok(target.join("soak"))
}

impl Stage {
    async fn set(options: &Options) -> io::Result<Self> {
        let server = Program::start(&["server", "--seed", &options.seed.to_string()].map(str::to_owned))?;
        let url = loop {
            if let Some(url) = server.said().url {
                break url;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let net = Net::before(port_of(&url)).await?;
        let url = url.replacen(&format!(":{}/", port_of(&url)), &format!(":{}/", net.port()), 1);
        let mortal = MORTALS.min(options.sessions / SESSIONS_EACH / 4);
        let lasting = options.sessions - mortal * SESSIONS_EACH;
        let clients = Program::clients(&url, lasting, options.seed)?;
        let mut stage = Self {
            server,
            clients,
            mortals: Vec::new(),
            net,
            url,
            random: Random::new(options.seed),
            struck: BTreeMap::new(),
            programs: 0,
        };
        for _ in 0..mortal {
            let program = stage.mortal()?;
            stage.mortals.push(program);
        }
        Ok(stage)
    }

    fn mortal(&mut self) -> io::Result<Program> {
        self.programs += 1;
        Program::clients(&self.url, SESSIONS_EACH, 1_000_000 * self.programs)
    }

    /// Makes faults for so long, and takes a sample each second.
    async fn play(&mut self, options: &Options) -> io::Result<Vec<Second>> {
        let began = Instant::now();
        let (mut faults, mut samples) = (interval(options.pace), interval(Duration::from_secs(1)));
        faults.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seconds = Vec::new();
        let mut last_words = began;
        while began.elapsed() < options.duration {
            tokio::select! {
                _ = faults.tick() => self.strike().await?,
                _ = samples.tick() => {
                    let second = self.sample(began.elapsed().as_secs_f64())?;
                    seconds.push(second);
                    if last_words.elapsed() >= Duration::from_secs(60) {
                        last_words = Instant::now();
                        eprintln!("{second:?}");
                    }
                }
            }
        }
        Ok(seconds)
    }

    fn sample(&self, at: f64) -> io::Result<Second> {
        let of = |program: &Program| Sample::of(program.child.id().unwrap_or(0));
        Ok(Second {
            at,
            server: of(&self.server)?,
            clients: of(&self.clients)?,
            sessions: self.server.said().tick.open("service"),
            connections: self.net.connections() as u64,
            faults: self.struck.values().sum(),
        })
    }

    async fn strike(&mut self) -> io::Result<()> {
        let fault = self.random.weighted(&FAULTS);
        let ms = 200 + self.random.below(5000);
        let time = Duration::from_millis(ms as u64);
        match fault {
            Fault::ConnectionEnds => self.net.strike(&mut self.random, Fate::Ends),
            Fault::ConnectionIsReset => self.net.strike(&mut self.random, Fate::Resets),
            Fault::ConnectionGoesSilent => self.net.strike(&mut self.random, Fate::Swallows),
            Fault::ConnectionIsHeld => self.net.hold(&mut self.random, time),
            Fault::ClientIsDropped => self.clients.tell("drop").await,
            Fault::ClientStopsReading => self.clients.tell(&format!("stall {ms}")).await,
            Fault::ClientCloses => self.clients.tell("close").await,
            Fault::ServiceFails => self.clients.tell("fail").await,
            Fault::ServiceIsKilled => self.server.tell("kill").await,
            Fault::ClientProgramIsKilled if self.mortals.is_empty() => return Ok(()),
            Fault::ClientProgramIsKilled => {
                let next = self.mortal()?;
                let number = self.random.below(self.mortals.len());
                let mut victim = std::mem::replace(&mut self.mortals[number], next);
                victim.child.kill().await?;
            }
        }
        *self.struck.entry(fault).or_default() += 1;
        Ok(())
    }

    /// Lets the clients close, and then the server, and collects what they counted.
    async fn finish(self, seconds: Vec<Second>) -> Report {
        let name = |(fault, count): (&Fault, &u64)| (words(&format!("{fault:?}")), *count);
        let mut report =
            Report { seconds, faults: self.struck.iter().map(name).collect(), ..Report::default() };
        let finishing: Vec<_> =
            self.mortals.into_iter().chain([self.clients]).map(|one| tokio::spawn(one.finish())).collect();
        for one in finishing {
            match one.await.ok().flatten() {
                Some(totals) => report.clients.add(&totals),
                None => report.silent.push("a program of clients did not say what it had counted".into()),
            }
        }
        match self.server.finish().await {
            Some(totals) => report.server = totals,
            None => report.silent.push("the server did not say what it had counted".into()),
        }
        report
    }
}

/// `ClientIsDropped` as `client is dropped`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}
