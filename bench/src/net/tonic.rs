//! tonic: unary calls, and a client stream. Windows are as large as its documentation advises for throughput.

use std::io;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::channel::{mpsc, oneshot};
use futures::{SinkExt, StreamExt, stream};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::secure::{Client, Server};
use super::{Body, Caller, Checker, STREAM_WINDOW, Tally as Counted};
use crate::sample::{Clock, Sample};

#[allow(clippy::all, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench.Bench.rs"));
}

use generated::bench_client::BenchClient;
use generated::bench_server::{Bench, BenchServer};

/// The HTTP/2 window of a connection, beside that of its stream.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Messages between the task that makes them and the stream.
const CHANNEL_CAPACITY: usize = 1024;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Note {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Tally {
    #[prost(uint64, tag = "1")]
    arrived: u64,
    #[prost(uint64, tag = "2")]
    wrong: u64,
}

struct Service;

#[tonic::async_trait]
impl Bench for Service {
    async fn echo(&self, request: Request<Note>) -> Result<Response<Note>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn fetch(&self, request: Request<Note>) -> Result<Response<Note>, Status> {
        let number = request.into_inner().body.as_ref().try_into();
        let number = number.map_err(|_| Status::invalid_argument("expected a number of 8 bytes"))?;
        Ok(Response::new(Note { body: super::LONG.numbered(u64::from_be_bytes(number)) }))
    }

    async fn take(&self, request: Request<Streaming<Note>>) -> Result<Response<Tally>, Status> {
        let mut notes = request.into_inner();
        let mut checker = Checker::new();
        while let Some(note) = notes.message().await? {
            checker.check(&note.body);
        }
        let Counted { arrived, wrong } = checker.tally;
        Ok(Response::new(Tally { arrived, wrong }))
    }
}

/// With windows of a fixed length, or such as follow the path.
pub(super) async fn serve(server: Server, adaptive: bool) -> Result<()> {
    let (connected, connections) = mpsc::unbounded();
    let serving = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_adaptive_window(Some(adaptive))
        .add_service(BenchServer::new(Service))
        .serve_with_incoming(connections.map(Ok::<_, io::Error>));
    let accepting = server.accept_all(move |stream| {
        let sent = connected.unbounded_send(stream);
        async move { Ok(sent?) }
    });
    tokio::select! {
        served = serving => Ok(served?),
        accepted = accepting => accepted,
    }
}

async fn connect(client: &Client) -> Result<BenchClient<Channel>> {
    let mut stream = Some(TokioIo::new(client.connect().await?));
    let once = move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("there is one connection"));
        async move { stream }
    };
    let channel = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector(service_fn(once))
        .await?;
    Ok(BenchClient::new(channel))
}

#[derive(Clone)]
pub(super) struct Tonic(BenchClient<Channel>);

impl Caller for Tonic {
    async fn connect(client: &Client) -> Result<Self> {
        Ok(Self(connect(client).await?))
    }

    async fn call(&self, body: Bytes) -> Result<Bytes> {
        Ok(self.0.clone().echo(Note { body }).await?.into_inner().body)
    }

    async fn fetch(&self, number: u64) -> Result<Bytes> {
        let body = Bytes::copy_from_slice(&number.to_be_bytes());
        Ok(self.0.clone().fetch(Note { body }).await?.into_inner().body)
    }
}

/// Messages made where the stream is read, which is as fast as it gets.
pub(super) async fn one_way(client: &Client, len: usize, length: Duration) -> Result<Sample> {
    let mut client = connect(client).await?;
    let clock = Clock::start(length);
    let (notes, sent) = notes(len, clock);
    let tally = client.take(stream::iter(notes)).await?.into_inner();
    counted(tally, sent.await?, clock)
}

/// Messages that come from another task.
pub(super) async fn one_way_fed(client: &Client, len: usize, length: Duration) -> Result<Sample> {
    let mut client = connect(client).await?;
    let clock = Clock::start(length);
    let (notes, sent) = notes(len, clock);
    let (mut feed, fed) = mpsc::channel(CHANNEL_CAPACITY);
    let feeding = tokio::spawn(async move {
        for note in notes {
            feed.send(note).await?;
        }
        anyhow::Ok(())
    });
    let tally = client.take(fed).await?.into_inner();
    feeding.await??;
    counted(tally, sent.await?, clock)
}

fn counted(tally: Tally, sent: u64, clock: Clock) -> Result<Sample> {
    Counted { arrived: tally.arrived, wrong: tally.wrong }.check(sent)?;
    Ok(clock.sample(sent))
}

/// Messages until the time is over; and how many there were.
fn notes(len: usize, clock: Clock) -> (impl Iterator<Item = Note> + Send, oneshot::Receiver<u64>) {
    let (tell, told) = oneshot::channel();
    let (body, mut tell, mut number) = (Body::new(len), Some(tell), 0);
    let notes = std::iter::from_fn(move || {
        if number % 64 == 0 && clock.is_over() {
            let _ = tell.take()?.send(number);
            return None;
        }
        number += 1;
        Some(Note { body: body.numbered(number - 1) })
    });
    (notes, told)
}
