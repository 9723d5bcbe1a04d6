//! Bytes in both directions of one TLS connection, moved by one task at each end or by two.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lib_chan::tls::{self, CheckedKey, PinVerifier, ReloadableKey};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::sample::{Spread, cpu_seconds};

/// How to run it.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds, each with one measurement of either kind.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long one measurement takes, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

/// Bytes of a write, as in the row of bulk.
const LEN: usize = 16 * 1024;

/// Measures both, in turn, and prints bytes a second of both directions together, and processor time.
pub async fn run(options: Options) -> Result<()> {
    let length = Duration::from_millis(options.millis);
    let mut results = [Vec::new(), Vec::new()];
    for round in 0..options.rounds {
        for turn in 0..2 {
            let tasks = (round + turn) % 2;
            results[tasks].push(measure(tasks == 1, length).await?);
        }
    }
    let of = |tasks: usize, at: usize| {
        let values: Vec<f64> = results[tasks].iter().map(|result: &[f64; 2]| result[at]).collect();
        (Spread::of(&values), values)
    };
    for (tasks, name) in ["one task at each end", "two tasks at each end"].into_iter().enumerate() {
        let [(rate, _), (cpu, _)] = [of(tasks, 0), of(tasks, 1)];
        println!(
            "{name}: {:.0} MB/s ({:.0}–{:.0}), {:.0} µs of processor time a MB",
            rate.median, rate.least, rate.greatest, cpu.median
        );
    }
    let ratio = Spread::of_ratios(&of(1, 0).1, &of(0, 0).1);
    println!("two tasks are {:.2} ({:.2}–{:.2}) of one", ratio.median, ratio.least, ratio.greatest);
    Ok(())
}

/// Megabytes a second, and microseconds of processor time for one.
async fn measure(two_tasks: bool, length: Duration) -> Result<[f64; 2]> {
    let (near, far) = connect().await?;
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let far = tokio::spawn(both(far, two_tasks, start + length));
    let near = tokio::spawn(both(near, two_tasks, start + length));
    let bytes = (near.await?? + far.await??) as f64;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    Ok([bytes / seconds / 1e6, cpu / bytes * 1e12])
}

/// Writes until a time and reads until EOF. Returns the bytes read.
async fn both<S>(stream: S, two_tasks: bool, until: Instant) -> Result<u64>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = split(stream);
    let read = async move {
        let (mut buffer, mut count) = (vec![0; 4 * LEN], 0);
        loop {
            match reader.read(&mut buffer).await? {
                0 => return anyhow::Ok(count),
                len => count += len as u64,
            }
        }
    };
    let write = async move {
        let bytes = vec![7; LEN];
        while Instant::now() < until {
            writer.write_all(&bytes).await?;
        }
        anyhow::Ok(writer.shutdown().await?)
    };
    if two_tasks {
        let (read, write) = (tokio::spawn(read), tokio::spawn(write));
        write.await??;
        return read.await?;
    }
    let (count, written) = tokio::join!(read, write);
    written?;
    count
}

async fn connect()
-> Result<(tokio_rustls::client::TlsStream<TcpStream>, tokio_rustls::server::TlsStream<TcpStream>)> {
    let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let key = CheckedKey::new(vec![made.cert.der().clone()], key)?;
    let pin = key.pin()?;
    let acceptor = TlsAcceptor::from(tls::server_config(Arc::new(ReloadableKey::new(key)))?);
    let connector = TlsConnector::from(tls::client_config(Arc::new(PinVerifier::new(vec![pin])))?);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let (far, _) = listener.accept().await?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    let name = ServerName::try_from("localhost")?;
    let (near, far) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    Ok((near.context("TLS")?, far.context("TLS")?))
}
