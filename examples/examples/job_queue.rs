//! A job queue. What it does is in `src/jobs.rs`. Start a `server`; it prints how to start the others.
#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::time::Duration;

use anyhow::bail;
use chan_client::connect;
use chan_examples::{
    Place,
    jobs::{self, Jobs, JobsMessage},
};
use lib_chan::{Remote, secret::Password};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        [] => {
            let place = Place::standard()?;
            let server = place.bind(&jobs::modules(), "job_queue").await?;
            return place.serve(server, "job_queue").await;
        }
        [url, password_file, "worker"] => loop {
            // A worker outlives its server: it connects again and again.
            if let Ok(jobs) = open(url, password_file).await {
                let ended = jobs::work(&jobs, async |input| Ok(input.to_uppercase())).await;
                println!("{:?}", ended.map_err(|error| error.to_string()));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        },
        [url, password_file, "submit", input] => match open(url, password_file).await?.submit(input).await? {
            Ok(output) => println!("{output}"),
            Err(why) => bail!("the job failed: {why}"),
        },
        [url, password_file, "dashboard"] => {
            let jobs = open(url, password_file).await?;
            let mut seen = None;
            loop {
                let status = jobs.within(Duration::from_secs(24 * 3600)).status(seen).await?;
                println!("{status:?}");
                seen = Some(status);
            }
        }
        _ => bail!("usage: job_queue [URL PASSWORD_FILE worker|dashboard|(submit INPUT)]"),
    }
    Ok(())
}

async fn open(url: &str, password_file: &str) -> anyhow::Result<Remote<JobsMessage>> {
    let password = Password::from_file(password_file)?;
    Ok(connect(url).password(password).open_remote().await?)
}
