-- The login record has renewals and exchanges as well. Servers of the version before go on beside:
-- what they note is a login, and they list all as if it were one.

-- kind: 1 login, 2 renewal, 3 exchange. parent: the token that was renewed or exchanged. account: 0
-- where the token speaks for a resource.
ALTER TABLE latchkey.logins ADD COLUMN kind bigint NOT NULL DEFAULT 1;
ALTER TABLE latchkey.logins ADD COLUMN parent uuid;
