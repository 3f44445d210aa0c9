//! TLS, snappy and deflate for a [`Peer`], with other code than nsqd's where possible: flate2's streaming types for
//! deflate, and the chunks of snappy implemented here a second time.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use flate2::write::{DeflateDecoder, DeflateEncoder};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::wire::{PATIENCE, Peer, Stream};

/// A compression that IDENTIFY can negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Snappy,
    Deflate,
}

impl Peer {
    /// IDENTIFY with a request for TLS, the handshake, and its OK. Returns the certificate of nsqd.
    pub async fn start_tls(&mut self, request: Value, config: Arc<ClientConfig>) -> CertificateDer<'static> {
        let mut request = request;
        request["feature_negotiation"] = true.into();
        request["tls_v1"] = true.into();
        let reply = self.identify(request).await;
        assert_eq!(reply["tls_v1"], true, "{reply}");
        let certificate = self.shake_hands(config).await.unwrap_or_else(|error| panic!("handshake: {error}"));
        self.ok().await;
        certificate
    }

    /// Performs the handshake alone. Returns the certificate of nsqd.
    pub async fn shake_hands(&mut self, config: Arc<ClientConfig>) -> io::Result<CertificateDer<'static>> {
        assert!(self.received.is_empty(), "nsqd sent data before the handshake: {:?}", self.received);
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let (stream, certificate) = connect_tls(plain, config).await?;
        self.stream = stream;
        Ok(certificate)
    }

    /// IDENTIFY with a request for compression, and its OK.
    pub async fn start_compression(&mut self, request: Value, form: Form) {
        let mut request = request;
        request["feature_negotiation"] = true.into();
        request[form.name()] = true.into();
        let reply = self.identify(request).await;
        assert_eq!(reply[form.name()], true, "{reply}");
        self.compress(form);
        self.ok().await;
    }

    /// Switches the connection to this compression.
    pub fn compress(&mut self, form: Form) {
        let mut compression = Compression::new(form);
        // Bytes that arrived together with the reply to IDENTIFY are already compressed.
        compression.received = self.received.split();
        compression.decompress(&mut self.received);
        self.compression = Some(compression);
    }
}

/// Performs a TLS handshake over a stream. Returns the stream and the server's certificate.
pub async fn connect_tls(
    stream: Box<dyn Stream>,
    config: Arc<ClientConfig>,
) -> io::Result<(Box<dyn Stream>, CertificateDer<'static>)> {
    let name = ServerName::try_from("localhost").expect("a host name");
    let handshake = TlsConnector::from(config).connect(name, stream);
    let stream = tokio::time::timeout(PATIENCE, handshake).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().expect("a server sends a certificate").clone().into_owned();
    Ok((Box::new(stream), certificate))
}

impl Form {
    /// Its field in IDENTIFY.
    pub fn name(self) -> &'static str {
        match self {
            Form::Snappy => "snappy",
            Form::Deflate => "deflate",
        }
    }
}

/// Both directions of a compressed connection.
pub struct Compression {
    codec: Codec,
    pub(crate) received: BytesMut,
}

enum Codec {
    Snappy(Box<snap::write::FrameEncoder<Vec<u8>>>),
    Deflate(Box<DeflateEncoder<Vec<u8>>>, Box<DeflateDecoder<Vec<u8>>>),
}

impl Compression {
    fn new(form: Form) -> Self {
        let codec = match form {
            Form::Snappy => Codec::Snappy(Box::new(snap::write::FrameEncoder::new(Vec::new()))),
            Form::Deflate => Codec::Deflate(
                Box::new(DeflateEncoder::new(Vec::new(), flate2::Compression::default())),
                Box::new(DeflateDecoder::new(Vec::new())),
            ),
        };
        Compression { codec, received: BytesMut::new() }
    }

    pub(crate) fn compress(&mut self, bytes: &[u8]) -> Vec<u8> {
        match &mut self.codec {
            Codec::Snappy(encoder) => {
                encoder.write_all(bytes).and_then(|()| encoder.flush()).expect("memory can be written to");
                std::mem::take(encoder.get_mut())
            }
            Codec::Deflate(encoder, _) => {
                encoder.write_all(bytes).and_then(|()| encoder.flush()).expect("memory can be written to");
                std::mem::take(encoder.get_mut())
            }
        }
    }

    pub(crate) fn decompress(&mut self, out: &mut BytesMut) {
        match &mut self.codec {
            Codec::Snappy(_) => {
                while let Some((kind, data)) = take_chunk(&mut self.received) {
                    match kind {
                        0xff => assert_eq!(&data[..], b"sNaPpY"),
                        0x00 => {
                            let plain = snap::raw::Decoder::new().decompress_vec(&data[4..]);
                            out.extend_from_slice(&plain.expect("a chunk that can be decompressed"));
                        }
                        0x01 => out.extend_from_slice(&data[4..]),
                        kind => panic!("a chunk of type {kind:#x}"),
                    }
                }
            }
            Codec::Deflate(_, decoder) => {
                let compressed = self.received.split();
                decoder.write_all(&compressed).and_then(|()| decoder.flush()).expect("a deflate stream");
                out.extend_from_slice(&std::mem::take(decoder.get_mut()));
            }
        }
    }
}

/// Takes one complete chunk of snappy's framing format.
fn take_chunk(received: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let header = received.get(..4)?;
    let kind = header[0];
    let length = usize::from(header[1]) | usize::from(header[2]) << 8 | usize::from(header[3]) << 16;
    if received.len() < 4 + length {
        return None;
    }
    received.advance(4);
    Some((kind, received.split_to(length)))
}
