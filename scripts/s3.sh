# An S3 server with TLS for the benchmark: moto, and nginx before it, whose log tells the requests. Sourced by bash after cluster.sh.
# shellcheck shell=bash
#
# Everything lies in $WORK/s3 and listens on loopback alone; both servers end with the script.

S3_PORT=${PGBR_BENCH_S3_PORT:-18443}

s3_start() {
    apt_install nginx-light openssl curl
    local moto
    "$ROOT/scripts/install-stores.sh"
    moto=$(stores_dir)/moto/bin/moto_server
    S3_BACK=$((S3_PORT + 1))
    mkdir -p "$WORK/s3"
    s3_certificates
    s3_nginx_conf >"$WORK/s3/nginx.conf"
    trap 's3_stop; clean_work' EXIT
    "$moto" -H 127.0.0.1 -p "$S3_BACK" >"$WORK/s3/moto.log" 2>&1 &
    S3_MOTO=$!
    nginx -p "$WORK/s3" -c nginx.conf >"$WORK/s3/nginx.log" 2>&1 &
    S3_NGINX=$!
    local try
    for ((try = 0; try < 300; try++)); do
        ! curl -sf -o /dev/null --cacert "$WORK/s3/ca.pem" "https://localhost:$S3_PORT/" || return 0
        sleep 0.1
    done
    tail -n 20 "$WORK"/s3/*.log >&2
    die "the S3 server does not answer"
}

s3_stop() {
    local pid
    for pid in "${S3_NGINX:-}" "${S3_MOTO:-}"; do
        [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    done
    S3_NGINX='' S3_MOTO=''
}

# An authority and a certificate of its for localhost, in $WORK/s3.
s3_certificates() (
    cd "$WORK/s3" || exit
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj "/CN=pgbr bench" -days 2
    openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost
    printf 'subjectAltName=DNS:localhost\n' >names
    openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem
    chmod 0644 ca.pem
) >/dev/null 2>&1

s3_nginx_conf() {
    local user='' kind
    [ "$(id -u)" -ne 0 ] || user='user root;'
    cat <<CONF
$user worker_processes 1; pid nginx.pid; error_log error.log; daemon off;
events { worker_connections 256; }
http {
    log_format short '\$request_method \$status \$request_length \$bytes_sent \$request_uri';
    access_log access.log short;
$(for kind in client_body proxy fastcgi uwsgi scgi; do printf '    %s_temp_path temp-%s;\n' "$kind" "$kind"; done)
    upstream moto { server 127.0.0.1:$S3_BACK; keepalive 16; }
    server {
        listen 127.0.0.1:$S3_PORT ssl;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;
        client_max_body_size 0;
        keepalive_requests 100000;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_http_version 1.1;
        location / {
            proxy_pass http://moto;
            proxy_set_header Host \$http_host;
            proxy_set_header Connection "";
        }
    }
}
CONF
}

# s3_bucket NAME [fresh]: makes a bucket; where that is said, in a server that holds nothing else.
s3_bucket() {
    local url=http://127.0.0.1:$S3_BACK
    [ "${2:-}" != fresh ] || curl -sf -o /dev/null -X POST "$url/moto-api/reset" || die "the server could not be emptied"
    curl -sf -o /dev/null -X PUT "$url/$1" || die "the bucket $1 could not be made"
}

# s3_options BUCKET: the lines of a config file.
s3_options() {
    printf 'repo1-type=s3\nrepo1-path=/repo\nrepo1-s3-bucket=%s\nrepo1-s3-endpoint=localhost\nrepo1-s3-region=us-east-1\n' "$1"
    printf 'repo1-s3-key=AKIAEXAMPLE\nrepo1-s3-key-secret=example\nrepo1-s3-uri-style=path\n'
    printf 'repo1-storage-host=localhost\nrepo1-storage-port=%s\nrepo1-storage-ca-file=%s\n' "$S3_PORT" "$WORK/s3/ca.pem"
}

# s3_requests BUCKET: bytes sent to it and requests made, since s3_forget.
s3_requests() { awk -v at="/$1/" -v bare="/$1?" 'index($5, at) == 1 || index($5, bare) == 1 { bytes += $3; n++ } END { printf "%.0f %d\n", bytes, n }' "$WORK/s3/access.log"; }

s3_forget() { : >"$WORK/s3/access.log"; }
