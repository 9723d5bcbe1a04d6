//! tarpc over its serde transport, as its own TLS example has it; requests are handled concurrently, as its README
//! says.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport};
use tokio_util::codec::LengthDelimitedCodec;

use super::Caller;
use super::secure::{Client, Server};

#[tarpc::service]
trait Bench {
    async fn echo(body: Bytes) -> Bytes;
}

#[derive(Clone)]
struct Service;

impl Bench for Service {
    async fn echo(self, _: context::Context, body: Bytes) -> Bytes {
        body
    }
}

pub(super) async fn serve(server: Server) -> Result<()> {
    server
        .accept_all(|stream| async move {
            let framed = LengthDelimitedCodec::builder().new_framed(stream);
            let transport = serde_transport::new(framed, Bincode::default());
            let requests = BaseChannel::with_defaults(transport).execute(Service.serve());
            requests.for_each(|answer| async move { drop(tokio::spawn(answer)) }).await;
            Ok(())
        })
        .await
}

#[derive(Clone)]
pub(super) struct Tarpc(BenchClient);

impl Caller for Tarpc {
    async fn connect(client: &Client) -> Result<Self> {
        let framed = LengthDelimitedCodec::builder().new_framed(client.connect().await?);
        let transport = serde_transport::new(framed, Bincode::default());
        Ok(Self(BenchClient::new(client::Config::default(), transport).spawn()))
    }

    async fn call(&self, body: Bytes) -> Result<Bytes> {
        let mut context = context::current();
        // As long as a call of lib_chan waits.
        context.deadline = Instant::now() + Duration::from_secs(60);
        Ok(self.0.echo(context, body).await?)
    }
}
