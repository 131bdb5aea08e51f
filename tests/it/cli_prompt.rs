//! A secret that is asked for at a terminal: it is asked by its name, what is typed is not shown, and it is what is stored.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::admin::{bearer, integration};
use crate::harness::{Canary, Sidekey, Sink, get, soon};

const BINARY: &str = env!("CARGO_BIN_EXE_sidekey");

/// Waits until a terminal does not show what is typed.
async fn hidden(terminal: &str) {
    loop {
        let told = Command::new("stty").args(["-a", "-F", terminal]).output().await.expect("stty, of coreutils");
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains("echo"), "{terminal}: {told}");
        if told.split_whitespace().any(|flag| flag == "-echo") {
            return;
        }
    }
}

#[tokio::test]
async fn a_secret_is_asked_for_and_not_shown() {
    let (sink, canary) = (Sink::https().await, Canary::new("typed"));
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    server.admin().must("POST", "integrations", integration("crm", bearer())).await;
    // `script` (util-linux) runs a command at a terminal of its own, whose name is shown first.
    let command = format!("tty; exec {BINARY} connection create crm --set token");
    let mut child = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .current_dir(server.folder())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SIDEKEY_ADMIN__ADDRESS", server.admin_address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("script, of util-linux");
    let (mut typed, mut shown) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let (mut screen, mut buffer) = (String::new(), [0; 4096]);
    while !screen.contains("token: ") {
        let length = soon("the prompt", shown.read(&mut buffer)).await.expect("what is shown");
        assert!(length > 0, "it ended without asking: {screen}");
        screen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    // Typed once the terminal shows nothing any more, which is after the question.
    let terminal = screen.lines().next().expect("the name of the terminal").trim().to_owned();
    soon("a terminal that hides what is typed", hidden(&terminal)).await;
    typed.write_all(format!("{}\n", canary.text()).as_bytes()).await.expect("it is typed");
    while let Ok(length @ 1..) = soon("the end", shown.read(&mut buffer)).await {
        screen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    let ended = soon("the end of the command", child.wait()).await.expect("a child of ours");
    assert!(ended.success(), "{screen}");
    assert!(screen.contains("the connection crm is there") && !screen.contains(canary.text()), "{screen}");
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 200);
    assert!(sink.requests()[0].header("authorization").is_some_and(|value| value.ends_with(canary.text())));
    server.finish(&[&canary]).await;
}
