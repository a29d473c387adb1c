//! Certificates for TLS in a lab, made when it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use super::Lab;

/// A certification authority that nobody knows but whom a test tells.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    file: PathBuf,
}

/// A server's certificate and its key, in PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one, with its files in the lab's directory.
    pub fn new(lab: &Lab) -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, "Roost's tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let dir = lab.dir().to_owned();
        let file = write(&dir.join("authority.pem"), &issuer.pem())?;
        Ok(Self { issuer, dir, file })
    }

    /// Its own certificate, which clients are to trust.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Makes a certificate for these names and addresses.
    pub fn certify(&self, file: &str, names: &[&str]) -> Result<Certificate> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Certificate {
            certificate: write(&self.dir.join(format!("{file}.pem")), &certificate.pem())?,
            key: write(&self.dir.join(format!("{file}.key")), &key.serialize_pem())?,
        })
    }
}

fn write(path: &Path, pem: &str) -> Result<PathBuf> {
    fs::write(path, pem).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.to_owned())
}
