//! The connection to a collector: OTLP over gRPC or HTTP, with or without TLS.

use std::{fs, sync::Arc, time::Duration};

use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry_http::{HttpClient, hyper::HyperClient};
use opentelemetry_otlp::{
    MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig as _, WithTonicConfig as _,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::settings::{CollectorSettings, Protocol};

/// How long one export of spans may take: the default of the standard.
const SPAN_EXPORT_MAX: Duration = Duration::from_secs(10);

impl CollectorSettings {
    /// Makes the exporter of spans. Connects later.
    ///
    /// # Errors
    /// The certificate cannot be used, or this machine has no certificates.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub(super) fn span_exporter(&self) -> Result<SpanExporter, String> {
        let builder = SpanExporter::builder();
        let made = match self.protocol {
            Protocol::Grpc => {
                let mut builder = self.prepare(builder.with_tonic(), SPAN_EXPORT_MAX);
                if self.is_secure() {
                    builder = builder.with_tls_config(self.grpc_tls()?);
                }
                builder.build()
            }
            Protocol::Http => {
                let client = self.http_client(SPAN_EXPORT_MAX)?;
                let builder = self.prepare(builder.with_http(), SPAN_EXPORT_MAX);
                builder.with_shared_http_client(client).build()
            }
        };
        made.map_err(|error| format!("cannot export traces: {error}"))
    }

    /// Makes the exporter of metrics, as [`Self::span_exporter`]. An export is given up after `export_max`.
    ///
    /// # Errors
    /// As [`Self::span_exporter`].
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub(crate) fn metric_exporter(&self, export_max: Duration) -> Result<MetricExporter, String> {
        let builder = MetricExporter::builder();
        let made = match self.protocol {
            Protocol::Grpc => {
                let mut builder = self.prepare(builder.with_tonic(), export_max);
                if self.is_secure() {
                    builder = builder.with_tls_config(self.grpc_tls()?);
                }
                builder.build()
            }
            Protocol::Http => {
                let client = self.http_client(export_max)?;
                let builder = self.prepare(builder.with_http(), export_max);
                builder.with_shared_http_client(client).build()
            }
        };
        made.map_err(|error| format!("cannot export metrics: {error}"))
    }

    fn prepare<B: WithExportConfig>(&self, builder: B, export_max: Duration) -> B {
        let protocol = match self.protocol {
            Protocol::Grpc => opentelemetry_otlp::Protocol::Grpc,
            Protocol::Http => opentelemetry_otlp::Protocol::HttpBinary,
        };
        builder
            .with_endpoint(self.endpoint.clone())
            .with_protocol(protocol)
            .with_timeout(export_max)
    }

    fn grpc_tls(&self) -> Result<ClientTlsConfig, String> {
        let config = ClientTlsConfig::new();
        Ok(match self.certificates()? {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        })
    }

    fn http_client(&self, export_max: Duration) -> Result<Arc<dyn HttpClient>, String> {
        if !self.is_secure() {
            return Ok(Arc::new(HyperClient::with_default_connector(export_max, None)));
        }
        let provider = ring::default_provider();
        let builder = HttpsConnectorBuilder::new();
        let builder = match self.certificates()? {
            Some(pem) => {
                let config = ClientConfig::builder_with_provider(Arc::new(provider))
                    .with_safe_default_protocol_versions()
                    .map_err(|error| format!("cannot use TLS: {error}"))?
                    .with_root_certificates(roots(&pem).map_err(|error| self.unusable(&error))?)
                    .with_no_client_auth();
                builder.with_tls_config(config)
            }
            None => builder
                .with_provider_and_native_roots(provider)
                .map_err(|error| format!("cannot read the certificates of this machine: {error}"))?,
        };
        let connector = builder.https_only().enable_http1().build();
        Ok(Arc::new(HyperClient::new(connector, export_max, None)))
    }

    /// The certificates to trust, as PEM. `None`: the certificates of this machine.
    fn certificates(&self) -> Result<Option<Vec<u8>>, String> {
        let Some((_, path)) = &self.certificate else {
            return Ok(None);
        };
        let pem = fs::read(path).map_err(|error| self.unusable(&error.to_string()))?;
        roots(&pem).map_err(|error| self.unusable(&error))?;
        Ok(Some(pem))
    }

    fn unusable(&self, why: &str) -> String {
        let (name, path) = self
            .certificate
            .as_ref()
            .map_or(("", ""), |(name, path)| (name, path.as_str()));
        format!("{name} is {path:?}: {why}; give the path of a PEM file with the certificate to trust")
    }
}

/// The certificates in a PEM file.
fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("the file holds no certificate".to_owned());
    }
    Ok(roots)
}
