//! The servers under load: `jamba serve` and llama-server, each in its own process.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{Api, Endpoint};

/// llama-server has this long to load its model.
const LOAD_TIME: Duration = Duration::from_secs(120);

/// A running server. Dropping it ends it.
pub struct Server {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// From the start of the process to the first answer of `/health`.
    pub start: Duration,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `jamba serve`.
    ///
    /// # Errors
    /// The program cannot be started, or does not serve.
    pub fn jamba(plan: &Path, options: &[&str]) -> Result<Server, Box<dyn Error>> {
        let began = Instant::now();
        let mut command = Command::new(program("jamba")?);
        command.arg("serve").arg(plan).args(["--port", "0"]).args(options).env("JAMBA_LOG", "warn");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(": ").next());
        let address = address.ok_or_else(|| format!("{}: {line:?}", plan.display()))?.to_owned();
        let endpoint = Endpoint { address, api: Api::Jamba };
        endpoint.get("/health")?;
        Ok(Server { endpoint, start: began.elapsed(), child })
    }

    /// Starts llama-server with eight slots.
    ///
    /// # Errors
    /// The program cannot be started, or does not serve.
    pub fn llama(
        program: &Path,
        gguf: &Path,
        caches: bool,
        threads: usize,
        options: &[&str],
    ) -> Result<Server, Box<dyn Error>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let began = Instant::now();
        let mut command = Command::new(program);
        command.arg("-m").arg(gguf).args(["--host", "127.0.0.1", "--port", &port.to_string(), "-np", "8"]);
        command.args(["-c", "32768", "-t", &threads.to_string()]).args(options);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let endpoint = Endpoint { address: format!("127.0.0.1:{port}"), api: Api::Llama { caches } };
        let mut server = Server { endpoint, start: Duration::ZERO, child };
        while server.endpoint.get("/health").is_err() {
            if began.elapsed() > LOAD_TIME || server.child.try_wait()?.is_some() {
                return Err(format!("{} does not serve {}", program.display(), gguf.display()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        server.start = began.elapsed();
        Ok(server)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// `/proc` is missing, or the process has ended.
    pub fn resident(&self) -> Result<u64, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Waits until no request is left.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn wait_until_idle(&self) -> Result<(), Box<dyn Error>> {
        while self.endpoint.get("/slots")?.trim() != "[]" {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// A program of this workspace: next to this one, or one folder up.
fn program(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{name} is missing: cargo build --release --workspace").into())
}
