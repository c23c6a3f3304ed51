//! etcd's JSON gateway on the node's own client port, with the agent's certificate.

use contract::paths::PKI;
use contract::ports::ETCD_CLIENT;
use serde::Deserialize;
use std::fs;
use std::time::Duration;

/// The member runs on this very machine.
const SILENCE: Duration = Duration::from_secs(2);

/// `POST /v3/maintenance/status`; 64-bit numbers are strings in JSON (protobuf's mapping).
#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    leader: String,
}

/// Whether the local member sees a leader.
pub(crate) fn sees_leader() -> Result<bool, String> {
    let read = |name: &str| fs::read(format!("{PKI}/etcd/{name}")).map_err(|e| format!("{name}: {e}"));
    let parse = |name: &str| -> Result<Vec<ureq::tls::Certificate<'static>>, String> {
        let pem = read(name)?;
        Ok(vec![ureq::tls::Certificate::from_pem(&pem).map_err(|e| format!("{name}: {e}"))?.to_owned()])
    };
    let key = ureq::tls::PrivateKey::from_pem(&read("agent-client.key")?).map_err(|e| e.to_string())?;
    let own = ureq::tls::ClientCert::new_with_certs(&parse("agent-client.crt")?, key);
    let roots = ureq::tls::RootCerts::new_with_certs(&parse("server-ca.crt")?);
    let tls = ureq::tls::TlsConfig::builder()
        .client_cert(Some(own))
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(crate::pki::provider())
        .build();
    let config = ureq::Agent::config_builder().timeout_global(Some(SILENCE)).tls_config(tls).proxy(None).build();
    let resolver = crate::net::dns::Resolver;
    let agent = ureq::Agent::with_parts(config, ureq::unversioned::transport::DefaultConnector::default(), resolver);
    let url = format!("https://127.0.0.1:{ETCD_CLIENT}/v3/maintenance/status");
    let body = agent
        .post(&url)
        .send("{}")
        .map_err(|e| e.to_string())?
        .into_body()
        .read_to_string()
        .map_err(|e| e.to_string())?;
    leader(&body)
}

fn leader(body: &str) -> Result<bool, String> {
    let status: Status = serde_json::from_str(body).map_err(|e| e.to_string())?;
    Ok(!matches!(&*status.leader, "" | "0"))
}

#[cfg(test)]
mod tests {
    use super::leader;

    #[test]
    fn reads_etcds_answer() {
        assert_eq!(
            leader(r#"{"header":{},"version":"3.7.3","leader":"10276657743932975437","raftTerm":"2"}"#),
            Ok(true)
        );
        assert_eq!(leader(r#"{"version":"3.7.3","leader":"0"}"#), Ok(false));
        assert_eq!(leader("{}"), Ok(false));
        assert!(leader("<html>").is_err());
    }
}
