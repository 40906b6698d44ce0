-- The database, its owner, a role for each process and a login in each role. Runs once, as a superuser, with the passwords
-- in the environment. `billing migrate` grants each role what its process needs (sinks/postgres/roles.py); no process needs
-- a superuser.
\set ON_ERROR_STOP on
\getenv owner OWNER_PASSWORD
\getenv gateway GATEWAY_PASSWORD
\getenv worker WORKER_PASSWORD
\getenv dispatcher DISPATCHER_PASSWORD
\getenv scheduler SCHEDULER_PASSWORD
\getenv console CONSOLE_PASSWORD
\getenv analytics ANALYTICS_PASSWORD
\getenv operator OPERATOR_PASSWORD

CREATE ROLE billing_gateway;
CREATE ROLE billing_worker;
CREATE ROLE billing_dispatcher;
CREATE ROLE billing_scheduler;
CREATE ROLE billing_analytics;
CREATE ROLE billing_console;
CREATE ROLE billing_operator;
CREATE ROLE billing_reader;

CREATE ROLE billing_owner LOGIN PASSWORD :'owner';
CREATE ROLE billing_gateway_login LOGIN PASSWORD :'gateway' IN ROLE billing_gateway;
CREATE ROLE billing_worker_login LOGIN PASSWORD :'worker' IN ROLE billing_worker;
CREATE ROLE billing_dispatcher_login LOGIN PASSWORD :'dispatcher' IN ROLE billing_dispatcher;
CREATE ROLE billing_scheduler_login LOGIN PASSWORD :'scheduler' IN ROLE billing_scheduler;
CREATE ROLE billing_console_login LOGIN PASSWORD :'console' IN ROLE billing_console;
CREATE ROLE billing_analytics_login LOGIN PASSWORD :'analytics' IN ROLE billing_analytics;
CREATE ROLE billing_operator_login LOGIN PASSWORD :'operator' IN ROLE billing_operator;

CREATE DATABASE billing OWNER billing_owner;
REVOKE CONNECT ON DATABASE billing FROM PUBLIC;
GRANT CONNECT ON DATABASE billing TO
    billing_gateway, billing_worker, billing_dispatcher, billing_scheduler, billing_analytics, billing_console, billing_operator, billing_reader;
