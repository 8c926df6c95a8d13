//! Tests of the command line itself: what is accepted, what is refused, and what stays fixed.
//!
//! The lines of the issue that scripts rely on stand here literally. Absent: what the commands
//! do; the integration tests run the program for that.

use super::*;

fn parses(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

/// Lines that scripts rely on.
const ACCEPTED: &[&str] = &[
    "latchkey dev --listen 127.0.0.1:0 --data-dir d --output json",
    "latchkey token issue --kind user --subject alice --scope secrets:read@acme/** --ttl 1h \
         --name n --reason r --output json",
    "latchkey token issue --kind team --subject team:platform --ttl 1h --name n --reason r",
    "latchkey token issue --kind resource --resource acme/web --scope secrets:read,secrets:list@acme/web \
         --ttl 1h --name n --reason r",
    "latchkey token issue --kind service --subject ci-runner --scope role:agent@acme --name n --reason r",
    "latchkey token issue --derive --ttl 5m --uses 1 --network 10.0.0.0/8 --label a=b --name n --reason r",
    "latchkey token revoke 0197f3a2-7c00-7000-8000-000000000000 --reason r",
    "latchkey token revoke --secret-file - --reason r",
    "latchkey token revoke --self",
    "latchkey token revoke-all --subject user:alice --reason r",
    "latchkey token revoke-all --issued-by-principal principal:17 --reason r",
    "latchkey token update --self --scope a:b@c --clear description --clear not_before",
    "latchkey token list --addr 127.0.0.1:1 --token-file - --state active --kind user",
    "latchkey token rotate --self --grace 0 --expected-rotation 0",
    "latchkey token whoami --timeout 1s",
    "latchkey check --token-file - --action secrets:read --resource acme/web/prod",
    "latchkey check --token-file f --need a:b@c --need d:e@f --at-least 3-0011223344556677",
    "latchkey explain 0197f3a2-7c00-7000-8000-000000000000 --action a:b --resource c",
    "latchkey routes test GET https://api.example.com/v1 --file f --header x-a:b --output json",
    "latchkey routes test POST /acme.v1.Secrets/GetSecret --config f",
    "latchkey routes check --file f",
    "latchkey audit verify",
    "latchkey audit verify --data-dir d",
    "latchkey audit verify --offline",
    "latchkey copy --from d --to postgres://u@h/d",
    "latchkey drill --replica h:1 --replica h:2 --wait 5s",
    "latchkey audit watch --after 3 --kind token.revoke --output json",
    "latchkey user create alice --home acme --reason r",
    "latchkey team add-member platform user:carol --reason r",
    "latchkey team members platform",
    "latchkey service disable ci-runner --reason r",
    "latchkey role create agent --home acme --action checks:insert --reason r",
    "latchkey grant create --principal user:alice --role agent --resource acme/** --reason r",
    "latchkey apply -f directory.yaml --yes --prune",
    "latchkey serve --config f --set check.open=true --print-config",
    "latchkey bootstrap --recover --data-dir d",
    "latchkey backup file --data-dir d",
    "latchkey restore file --data-dir d --accept-older-copy",
    "latchkey serve --database-url postgres://u@h/d --set lease.length=5s",
    "latchkey migrate up --database-url postgres://u@h/d",
    "latchkey migrate status",
    "latchkey status",
    "latchkey wait 12-9f2c01aa5be07d43",
    "latchkey token issue --kind user --wait --name n --reason r",
    "latchkey grant create --principal user:alice --role agent --resource acme --reason r --wait",
    "latchkey health",
    "latchkey key-pair generate --out ci.key",
    "latchkey key-pair generate --p256 --out ci.key --output json",
    "latchkey seal-key generate --out seal.keys",
    "latchkey seal-key generate --out -",
    "latchkey seal-key list --output json",
    "latchkey seal-key rotate --reason r",
    "latchkey seal-key rotate 9f2c01aa --reason r",
    "latchkey seal-key retire 9f2c01aa --reason r",
    "latchkey seal-key revoke 9f2c01aa --reason r",
    "latchkey credential create ci-runner --name n --reason r --secret-only",
    "latchkey credential create service:ci-runner --scope a:b@c --ttl 30d --uses 5 \
         --network 10.0.0.0/8 --label a=b --name n --reason r",
    "latchkey credential register-key ci-runner --public-key-file ci.pub --name n --reason r",
    "latchkey credential list ci-runner --kind public-key --state active",
    "latchkey credential list ci-runner --kind client_secret",
    "latchkey credential list ci-runner --kind public_key",
    "latchkey credential revoke 0197f3a2-7c00-7000-8000-000000000000 --reason r --compromised",
    "latchkey credential logins ci-runner --limit 5",
    "latchkey login ci-runner --secret-file - --ttl 10m --scope a:b@c --audience a",
    "latchkey login ci-runner --key-file ci.key --credential 0197f3a2-7c00-7000-8000-000000000000",
    "latchkey service login-method set ci-runner universal-auth --ttl 30m --max-ttl 12h --reason r",
    "latchkey service login-method set ci-runner key-pair --period 1h --network 10.0.0.0/8 \
         --login-network 10.1.0.0/16 --lockout-threshold 5 --lockout-duration 10m --reason r",
    "latchkey service login-method show ci-runner",
    "latchkey service login-method remove ci-runner key-pair --reason r",
    "latchkey service login-method unlock ci-runner --network 192.0.2.7 --reason r",
    "latchkey service login-method remove ci-runner key_pair --reason r",
    "latchkey service login-method set ci-runner universal_auth --reason r",
    "latchkey token exchange --scope a:b@c --ttl 5m --audience a --network 10.0.0.0/8",
    "latchkey token renew --ttl 1h",
    "latchkey token revoke --access-token 0197f3a2-7c00-7000-8000-000000000000 --reason r",
    "latchkey token revoke-all --sessions-of service:ci-runner --reason r",
    "latchkey token list --kind client-secret",
    "latchkey token list --kind client_secret",
    "latchkey token list --kind public_key",
    "latchkey completions bash",
];

#[test]
fn the_lines_that_scripts_rely_on_are_accepted() {
    for line in ACCEPTED {
        let line = line.replace("         ", "");
        assert!(
            parses(&line).is_ok(),
            "{line}: {}",
            parses(&line)
                .err()
                .map_or_else(String::new, |e| e.to_string())
        );
    }
}

/// Lines that lack something or contradict themselves.
const REFUSED: &[&str] = &[
    "latchkey",
    "latchkey token issue --kind user --ttl 1h --name n",
    "latchkey token issue --ttl 1h --name n --reason r",
    "latchkey token issue --kind resource --resource a --name n --reason r",
    "latchkey token issue --kind resource --scope a:b@c --name n --reason r",
    "latchkey token issue --kind user --subject a --resource b --name n --reason r",
    "latchkey token issue --kind user --scope nonsense --name n --reason r",
    "latchkey token issue --kind user --ttl 0s --name n --reason r",
    "latchkey token issue --kind user --uses 0 --name n --reason r",
    "latchkey token issue --kind user --period 1h --max-lifetime 2h --name n --reason r",
    "latchkey token revoke --reason r",
    "latchkey token rotate",
    "latchkey token update --name n",
    "latchkey token revoke lku_secret --reason r",
    "latchkey token revoke-all --reason r",
    "latchkey token revoke-all --subject a --resource-under b --reason r",
    "latchkey token revoke-all --issued-by-credential c --reason r",
    "latchkey check --action a:b --resource c",
    "latchkey check --token-file f --action a:b",
    "latchkey check --token-file f --token t",
    "latchkey explain",
    "latchkey routes test GET",
    "latchkey routes test GET api.example.com/v1",
    "latchkey routes test GET /v1 --header x",
    "latchkey user create alice --home acme",
    "latchkey apply",
    "latchkey apply -f x --yes --dry-run",
    "latchkey key-pair generate",
    "latchkey key-pair generate --rsa --out f",
    "latchkey seal-key generate",
    "latchkey seal-key rotate",
    "latchkey seal-key retire --reason r",
    "latchkey seal-key revoke 9F2C01AA --reason r",
    "latchkey credential create ci-runner --reason r",
    "latchkey credential create ci-runner --name n",
    "latchkey credential register-key ci-runner --name n --reason r",
    "latchkey credential revoke lkc_secret --reason r",
    "latchkey login",
    "latchkey login ci-runner --secret s",
    "latchkey login ci-runner --key-file f",
    "latchkey login ci-runner --credential 0197f3a2-7c00-7000-8000-000000000000",
    "latchkey login ci-runner --secret-file f --key-file g --credential \
         0197f3a2-7c00-7000-8000-000000000000",
    "latchkey service login-method set ci-runner --reason r",
    "latchkey service login-method set ci-runner password --reason r",
    "latchkey service login-method set ci-runner key-pair --max-ttl 1h --period 1h --reason r",
    "latchkey service login-method set ci-runner key-pair --no-lockout --lockout-reset 1m --reason r",
    "latchkey user login-method show alice",
    "latchkey token issue --kind access --name n --reason r",
    "latchkey token exchange --scope nonsense",
    "latchkey dev --output yaml",
];

#[test]
fn what_is_missing_or_contradicts_itself_is_a_usage_error() {
    for line in REFUSED {
        let line = line.replace("         ", "");
        let error = parses(&line).expect_err(&line);
        assert_eq!(usage(&error), Exit::Usage, "{line}");
    }
}

#[test]
fn a_line_that_cannot_be_parsed_may_ask_for_json_all_the_same() {
    let check = |line: &str, expected: bool| {
        let words = line.split(' ').map(OsString::from);
        assert_eq!(wants_json(words), expected, "{line}");
    };
    check("latchkey token issue --output json", true);
    check("latchkey --output=json nonsense", true);
    check("latchkey --output text nonsense", false);
    check("latchkey nonsense json", false);
}
