#!/bin/sh
curl -sfk --max-time 2 https://localhost:6443/healthz -o /dev/null || exit 1
